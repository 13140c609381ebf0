//! Dates for chat templates (`strftime_now`), in UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Formats the present moment as C's `strftime`, with the conversions and flags of glibc and Python's `%f`. What is no
/// conversion stays as it is.
pub(super) fn now(format: &str) -> String {
    // A clock before 1970 is as good as none.
    strftime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO), format)
}

/// Formats the moment `since` 1970.
fn strftime(since: Duration, format: &str) -> String {
    let moment = Moment::new(since);
    let mut text = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        text.push_str(&rest[..start]);
        let conversion = &rest[start..];
        let flags = conversion[1..].bytes().take_while(|flag| b"-_0^#".contains(flag)).count();
        let flag = conversion[..=flags].chars().last().filter(|_| flags > 0);
        let kind = conversion[1 + flags..].chars().next();
        let length = 1 + flags + kind.map_or(0, char::len_utf8);
        match kind.and_then(|kind| moment.part(kind, flag)) {
            Some(part) => text.push_str(&part),
            None => text.push_str(&conversion[..length]),
        }
        rest = &conversion[length..];
    }
    text + rest
}

struct Moment {
    since: Duration,
    year: u64,
    /// From 1.
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    /// From 0, Sunday.
    weekday: u64,
    /// In the year, from 0.
    yearday: u64,
}

impl Moment {
    fn new(since: Duration) -> Self {
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, yearday, month, day) = civil(days);
        let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
        Self { since, year, month, day, hour, minute, second, weekday: (days + 4) % 7, yearday }
    }

    /// What `%kind` stands for: `-` takes the padding away, `_` and `0` choose it, `^` is upper case, `#` the other case.
    fn part(&self, kind: char, flag: Option<char>) -> Option<String> {
        let number = |value: u64, width: usize, pad: char| match flag
            .filter(|flag| "-_0".contains(*flag))
            .unwrap_or(pad)
        {
            '-' => value.to_string(),
            '_' => format!("{value:width$}"),
            _ => format!("{value:0width$}"),
        };
        let zeros = |value: u64, width: usize| number(value, width, '0');
        let spaces = |value: u64| number(value, 2, '_');
        let name = |name: &str| match flag {
            Some('^' | '#') => name.to_uppercase(),
            _ => name.to_string(),
        };
        let half = if self.hour < 12 { "AM" } else { "PM" };
        let day = DAYS[self.weekday as usize];
        let month = MONTHS[self.month as usize - 1];
        let twelve = (self.hour + 11) % 12 + 1;
        let all = |format: &str| name(&strftime(self.since, format));
        let (iso_year, iso_week) = self.iso_week();
        Some(match kind {
            'a' => name(&day[..3]),
            'A' => name(day),
            'b' | 'h' => name(&month[..3]),
            'B' => name(month),
            'c' => all("%a %b %e %H:%M:%S %Y"),
            'C' => zeros(self.year / 100, 2),
            'd' => zeros(self.day, 2),
            'D' | 'x' => all("%m/%d/%y"),
            'e' => spaces(self.day),
            'f' => format!("{:06}", self.since.subsec_micros()),
            'F' => all("%Y-%m-%d"),
            'g' => zeros(iso_year % 100, 2),
            'G' => iso_year.to_string(),
            'H' => zeros(self.hour, 2),
            'I' => zeros(twelve, 2),
            'j' => zeros(self.yearday + 1, 3),
            'k' => spaces(self.hour),
            'l' => spaces(twelve),
            'm' => zeros(self.month, 2),
            'M' => zeros(self.minute, 2),
            'n' => "\n".into(),
            'p' if flag == Some('#') => half.to_lowercase(),
            'p' => half.into(),
            'P' => half.to_lowercase(),
            'r' => all("%I:%M:%S %p"),
            'R' => all("%H:%M"),
            's' => self.since.as_secs().to_string(),
            'S' => zeros(self.second, 2),
            't' => "\t".into(),
            'T' | 'X' => all("%H:%M:%S"),
            'u' => ((self.weekday + 6) % 7 + 1).to_string(),
            'U' => zeros((self.yearday + 7 - self.weekday) / 7, 2),
            'V' => zeros(iso_week, 2),
            'w' => self.weekday.to_string(),
            'W' => zeros((self.yearday + 7 - (self.weekday + 6) % 7) / 7, 2),
            'y' => zeros(self.year % 100, 2),
            'Y' => self.year.to_string(),
            // Python's moment has no time zone.
            'z' | 'Z' => String::new(),
            '%' => "%".into(),
            _ => return None,
        })
    }

    /// The year and week of ISO 8601: a week belongs to the year that its Thursday is in.
    fn iso_week(&self) -> (u64, u64) {
        let thursday = self.yearday as i64 + 3 - ((self.weekday + 6) % 7) as i64;
        match thursday {
            ..0 => {
                let last = self.year - 1;
                (last, ((thursday + length_of(last) as i64) / 7 + 1) as u64)
            }
            _ if thursday as u64 >= length_of(self.year) => (self.year + 1, 1),
            _ => (self.year, thursday as u64 / 7 + 1),
        }
    }
}

/// Days of a year.
fn length_of(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    365 + u64::from(leap)
}

/// Year, day in the year (from 0), month and day (from 1) of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64, u64) {
    let mut year = 1970;
    while days >= length_of(year) {
        days -= length_of(year);
        year += 1;
    }
    let yearday = days;
    let mut month = 0;
    let lengths = [31, length_of(year) - 337, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, yearday, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::strftime;

    /// The right sides are Python's, of `datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)`.
    #[test]
    fn known_moments() {
        let all = "%a %A %w %d %b %B %h %m %y %Y %H %I %p %M %S %f|%z|%Z|%j %U %W|%c|%x|%X|%%|%G %u %V %C %D %e %F %g \
                   %k %l %P %r %R %T|%-d %-m %_d %_H %^a %#p %-j|%Q %é %";
        let expected = [
            (
                0,
                "Thu Thursday 4 01 Jan January Jan 01 70 1970 00 12 AM 00 00 000120|||001 00 00|Thu Jan  1 00:00:00 1970|01/01/70|00:00:00|%|1970 4 01 19 01/01/70  1 1970-01-01 70  0 12 am 12:00:00 AM 00:00 00:00:00|1 1  1  0 THU am 1|%Q %é %",
            ),
            (
                1709211845,
                "Thu Thursday 4 29 Feb February Feb 02 24 2024 13 01 PM 04 05 000120|||060 08 09|Thu Feb 29 13:04:05 2024|02/29/24|13:04:05|%|2024 4 09 20 02/29/24 29 2024-02-29 24 13  1 pm 01:04:05 PM 13:04 13:04:05|29 2 29 13 THU pm 60|%Q %é %",
            ),
            (
                1735603200,
                "Tue Tuesday 2 31 Dec December Dec 12 24 2024 00 12 AM 00 00 000120|||366 52 53|Tue Dec 31 00:00:00 2024|12/31/24|00:00:00|%|2025 2 01 20 12/31/24 31 2024-12-31 25  0 12 am 12:00:00 AM 00:00 00:00:00|31 12 31  0 TUE am 366|%Q %é %",
            ),
            (
                1609459199,
                "Thu Thursday 4 31 Dec December Dec 12 20 2020 23 11 PM 59 59 000120|||366 52 52|Thu Dec 31 23:59:59 2020|12/31/20|23:59:59|%|2020 4 53 20 12/31/20 31 2020-12-31 20 23 11 pm 11:59:59 PM 23:59 23:59:59|31 12 31 23 THU pm 366|%Q %é %",
            ),
            (
                1483228800,
                "Sun Sunday 0 01 Jan January Jan 01 17 2017 00 12 AM 00 00 000120|||001 01 00|Sun Jan  1 00:00:00 2017|01/01/17|00:00:00|%|2016 7 52 20 01/01/17  1 2017-01-01 16  0 12 am 12:00:00 AM 00:00 00:00:00|1 1  1  0 SUN am 1|%Q %é %",
            ),
            (
                1262304000,
                "Fri Friday 5 01 Jan January Jan 01 10 2010 00 12 AM 00 00 000120|||001 00 00|Fri Jan  1 00:00:00 2010|01/01/10|00:00:00|%|2009 5 53 20 01/01/10  1 2010-01-01 09  0 12 am 12:00:00 AM 00:00 00:00:00|1 1  1  0 FRI am 1|%Q %é %",
            ),
            (
                4102444799,
                "Thu Thursday 4 31 Dec December Dec 12 99 2099 23 11 PM 59 59 000120|||365 52 52|Thu Dec 31 23:59:59 2099|12/31/99|23:59:59|%|2099 4 53 20 12/31/99 31 2099-12-31 99 23 11 pm 11:59:59 PM 23:59 23:59:59|31 12 31 23 THU pm 365|%Q %é %",
            ),
        ];
        for (seconds, text) in expected {
            let since = Duration::new(seconds, 120_000);
            assert_eq!(strftime(since, all), text, "{seconds}");
        }
        assert_eq!(strftime(Duration::from_secs(5), "a%nb%tc%s"), "a\nb\tc5");
    }
}

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

/// Formats the present moment as C's `strftime`; `Err` has the conversion that is not known.
pub(super) fn now(format: &str) -> Result<String, String> {
    // A clock before 1970 is as good as none.
    strftime(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs(), format)
}

/// Formats `seconds` since 1970.
fn strftime(seconds: u64, format: &str) -> Result<String, String> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let hour = second / 3_600;
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(next) = chars.next() {
        if next != '%' {
            text.push(next);
            continue;
        }
        let mut conversion = chars.next();
        let padded = conversion != Some('-');
        if !padded {
            conversion = chars.next();
        }
        let number = |value: u64| if padded { format!("{value:02}") } else { value.to_string() };
        let weekday = DAYS[((days + 4) % 7) as usize];
        let name = MONTHS[month as usize - 1];
        let part = match conversion {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100),
            Some('m') => number(month),
            Some('d') => number(day),
            Some('H') => number(hour),
            Some('I') => number((hour + 11) % 12 + 1),
            Some('M') => number(second / 60 % 60),
            Some('S') => number(second % 60),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('B') => name.to_string(),
            Some('b') => name[..3].to_string(),
            Some('A') => weekday.to_string(),
            Some('a') => weekday[..3].to_string(),
            Some('%') => "%".to_string(),
            Some(other) => return Err(format!("%{other}")),
            None => return Err("%".to_string()),
        };
        text.push_str(&part);
    }
    Ok(text)
}

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    (year, month as u64 + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn known_moments() {
        let all = "%A %a %d %-d %B %b %m %Y %y %H:%M:%S %I %p %%";
        assert_eq!(strftime(0, all).unwrap(), "Thursday Thu 01 1 January Jan 01 1970 70 00:00:00 12 AM %");
        // 2024-02-29 13:04:05 UTC
        let leap_day = "Thursday Thu 29 29 February Feb 02 2024 24 13:04:05 01 PM %";
        assert_eq!(strftime(1_709_211_845, all).unwrap(), leap_day);
        assert_eq!(strftime(0, "%Q").unwrap_err(), "%Q");
        assert_eq!(strftime(0, "%").unwrap_err(), "%");
    }
}

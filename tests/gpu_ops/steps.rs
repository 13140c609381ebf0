//! Sizes by construction: one below, at and one above every step of a kernel or of the CPU backend, read from their sources.

/// The value of an integer constant in a source file, from the repository's root.
macro_rules! constant {
    ($file:literal, $name:literal) => {
        $crate::steps::parse(include_str!(concat!("../../", $file)), $name)
    };
}
pub(crate) use constant;

/// The integer after `name =`, or `name: usize =`, in a constant's definition.
pub fn parse(source: &str, name: &str) -> usize {
    let code = source.lines().map(|line| line.split("//").next().unwrap_or(line));
    let definitions = code.filter(|line| line.contains("const"));
    let mut values = definitions.flat_map(|line| line.split([',', ';'])).filter_map(|part| {
        let (left, right) = part.split_once(" = ")?;
        let left = left.trim_end_matches(": usize");
        let named = left.rsplit(' ').next() == Some(name);
        named.then(|| right.trim().parse::<usize>().ok()).flatten()
    });
    let value =
        values.next().unwrap_or_else(|| panic!("the source has a constant {name} with a plain value"));
    assert!(values.all(|other| other == value), "{name} has one value");
    value
}

/// One below, at and one above each step, and a vector of 8 to both sides of it, in ascending order; 0 is left out.
pub fn around<const N: usize>(steps: [usize; N]) -> Vec<usize> {
    let near = |step: usize| [step.saturating_sub(8), step - 1, step, step + 1, step + 8];
    let mut sizes: Vec<usize> = steps.into_iter().flat_map(near).filter(|&size| size > 0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// Combinations in which every dimension meets each of its sizes at least twice, each time beside others of the rest.
pub fn mixed<const N: usize>(dimensions: [&[usize]; N]) -> Vec<[usize; N]> {
    let longest = dimensions.iter().map(|sizes| sizes.len()).max().unwrap_or(0);
    // The second time round, each dimension begins somewhere else.
    let pick = |row: usize, d: usize| {
        let sizes = dimensions[d];
        sizes[(row + row / longest * (d + 1) + row / sizes.len() * d) % sizes.len()]
    };
    (0..2 * longest).map(|row| std::array::from_fn(|d| pick(row, d))).collect()
}

#[test]
fn constants_are_read() {
    assert_eq!(parse("constexpr int A = 3, B = 2 * A, C = 16;  // C = 5", "C"), 16);
    assert_eq!(parse("pub(super) const ROW_CHUNK: usize = 1024;\nlet x = 4;", "ROW_CHUNK"), 1024);
    assert_eq!(around([8]), [7, 8, 9, 16]);
}

#[test]
fn every_size_is_met() {
    let sizes = [vec![1, 2, 3, 4, 5, 6, 7], vec![8, 9, 10], vec![11]];
    let combinations = mixed([&sizes[0], &sizes[1], &sizes[2]]);
    for (d, sizes) in sizes.iter().enumerate() {
        for size in sizes {
            assert!(
                combinations.iter().filter(|row| row[d] == *size).count() >= 2,
                "{size}: {combinations:?}"
            );
        }
    }
}

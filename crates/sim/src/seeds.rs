//! Seeds that are kept because they once failed.

/// One a line: the number, then what it found. A line that begins with # is a comment.
const KEPT: &str = include_str!("../seeds.txt");

/// The seeds of `seeds.txt`.
#[must_use]
pub fn kept_seeds() -> Vec<u64> {
    let number = |line: &str| line.split_whitespace().next()?.parse().ok();
    KEPT.lines().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::{KEPT, kept_seeds};

    #[test]
    fn every_line_but_comments_names_a_seed_and_what_it_found() {
        let lines = KEPT.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        assert!(lines.clone().all(|l| l.split_whitespace().count() > 3));
        assert_eq!(lines.count(), kept_seeds().len());
    }
}

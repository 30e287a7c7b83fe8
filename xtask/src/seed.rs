//! The seed of what `cargo xtask test` makes up anew: simulator seeds, inputs of the fuzzer, moments of kills.
//!
//! It comes from the committed sources. A changed tree is tried with what nobody has tried yet, and the same tree fails or passes again.

use crate::test;

/// The seed when nothing tells the sources apart: no repository here, or no `git`.
const WITHOUT_GIT: u32 = 1;

/// The first 32 bits of the name that git gives to the tree of the last commit.
pub(crate) fn of_sources() -> u32 {
    let tree = test::output("git", &["rev-parse", "HEAD^{tree}"]).unwrap_or_default();
    of_tree(&tree).unwrap_or(WITHOUT_GIT)
}

fn of_tree(name: &str) -> Option<u32> {
    u32::from_str_radix(name.get(..8)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{of_sources, of_tree};

    #[test]
    fn a_tree_has_one_seed_and_what_is_no_tree_has_none() {
        assert_eq!(of_tree("d00d901c4f1a0000000000000000000000000000\n"), Some(0xd00d_901c));
        assert_eq!(of_tree(""), None);
        assert_eq!(of_tree("HEAD^{tree}"), None);
        assert_eq!(of_sources(), of_sources());
    }
}

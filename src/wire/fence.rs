//! Where a hint's JSON stands inside a script's output (contract §4.4).

use super::kv;

/// A part of a manifest that reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// `inventory`.
    Inventory,
    /// `check`.
    Check,
    /// `feed`.
    Feed,
}

impl Hint {
    fn markers(self) -> (&'static str, &'static str) {
        match self {
            Self::Inventory => (kv::INVENTORY_BLOCK_BEGIN, kv::INVENTORY_BLOCK_END),
            Self::Check => (kv::CHECK_BLOCK_BEGIN, kv::CHECK_BLOCK_END),
            Self::Feed => (kv::FEED_BLOCK_BEGIN, kv::FEED_BLOCK_END),
        }
    }
}

/// The hint's block, trimmed. Output without any block is the block of every hint; a script that marks blocks
/// has none for the hints that it does not mark.
#[must_use]
pub fn block(stdout: &str, hint: Hint) -> &str {
    let (begin, end) = hint.markers();
    if let Some((_, after)) = split_at_marker(stdout, begin) {
        return split_at_marker(after, end)
            .map_or(after, |(block, _)| block)
            .trim();
    }
    let others = [
        kv::INVENTORY_BLOCK_BEGIN,
        kv::CHECK_BLOCK_BEGIN,
        kv::COLLECT_BLOCK_BEGIN,
        kv::FEED_BLOCK_BEGIN,
    ];
    if others
        .into_iter()
        .any(|marker| split_at_marker(stdout, marker).is_some())
    {
        return "";
    }
    stdout.trim()
}

/// What stands before and after the first marker that starts a line.
fn split_at_marker<'a>(text: &'a str, marker: &str) -> Option<(&'a str, &'a str)> {
    let starts_line = |at: usize| at == 0 || text.as_bytes().get(at - 1) == Some(&b'\n');
    let (at, _) = text.match_indices(marker).find(|(at, _)| starts_line(*at))?;
    let (before, rest) = text.split_at_checked(at)?;
    Some((before, rest.strip_prefix(marker)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_stands_around_a_block_its_payload_is_found(
            before in "[a-z#\u{3042}\r\n ]{0,40}", payload in "[a-z{}\":#\u{3042} ]{0,40}", after in any::<String>()
        ) {
            let stdout = format!(
                "{before}\n{}\n{payload}\n{}{after}", kv::CHECK_BLOCK_BEGIN, kv::CHECK_BLOCK_END
            );
            prop_assert_eq!(block(&stdout, Hint::Check), payload.trim());
            if !after.contains("#KANADE") {
                prop_assert_eq!(block(&stdout, Hint::Feed), "");
            }
        }
    }

    #[test]
    fn later_blocks_are_ignored() {
        let stdout = "#KANADE-FEED-BEGIN\n1\n#KANADE-FEED-END\n#KANADE-FEED-BEGIN\n2\n#KANADE-FEED-END\n";
        assert_eq!(block(stdout, Hint::Feed), "1");
    }
}

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

type Markers = (&'static str, &'static str);

const INVENTORY: Markers = (kv::INVENTORY_BLOCK_BEGIN, kv::INVENTORY_BLOCK_END);
const CHECK: Markers = (kv::CHECK_BLOCK_BEGIN, kv::CHECK_BLOCK_END);
const COLLECT: Markers = (kv::COLLECT_BLOCK_BEGIN, kv::COLLECT_BLOCK_END);
const FEED: Markers = (kv::FEED_BLOCK_BEGIN, kv::FEED_BLOCK_END);
/// Every block that a script may print, also the one that is not projected.
const BLOCKS: [Markers; 4] = [INVENTORY, CHECK, COLLECT, FEED];

impl Hint {
    fn markers(self) -> Markers {
        match self {
            Self::Inventory => INVENTORY,
            Self::Check => CHECK,
            Self::Feed => FEED,
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
    if BLOCKS
        .into_iter()
        .any(|(begin, _)| split_at_marker(stdout, begin).is_some())
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

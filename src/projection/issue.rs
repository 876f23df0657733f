//! The parts of a good message that could not be projected (contract §7.9, D5), by their codes.

use std::fmt;

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IssueCode {
    /// An inventory job printed no JSON (§7.4).
    InventoryNotJson,
    /// An explode spec that describes no table (§7.5.1).
    ExplodeSpecInvalid,
    /// An explode spec that may not have the table it names (§7.5.2).
    ExplodeTableRefused,
    /// Elements that repeat the key of an earlier one; left out (§7.5.5).
    ExplodeDuplicateIdentity,
    /// A feed job printed no JSON (§7.8).
    FeedNotJson,
    /// A feed's payload is no object (§7.8.2).
    FeedNotObject,
    /// A feed's field is there and no array (§7.8.2).
    FeedFieldNotArray,
    /// Elements of a feed without a key; left out (§7.8.3).
    FeedItemWithoutKey,
    /// The database does not take it: a value too large, a constraint of somebody else's.
    NotStored,
    /// The job's manifest does not decode: the result counts as having none (§4.3).
    ManifestUndecodable,
}

impl IssueCode {
    /// All codes, in the order of the contract.
    pub const ALL: [Self; 10] = [
        Self::InventoryNotJson,
        Self::ExplodeSpecInvalid,
        Self::ExplodeTableRefused,
        Self::ExplodeDuplicateIdentity,
        Self::FeedNotJson,
        Self::FeedNotObject,
        Self::FeedFieldNotArray,
        Self::FeedItemWithoutKey,
        Self::NotStored,
        Self::ManifestUndecodable,
    ];

    /// The word in books and lists.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InventoryNotJson => "inventory_not_json",
            Self::ExplodeSpecInvalid => "explode_spec_invalid",
            Self::ExplodeTableRefused => "explode_table_refused",
            Self::ExplodeDuplicateIdentity => "explode_duplicate_identity",
            Self::FeedNotJson => "feed_not_json",
            Self::FeedNotObject => "feed_not_object",
            Self::FeedFieldNotArray => "feed_field_not_array",
            Self::FeedItemWithoutKey => "feed_item_without_key",
            Self::NotStored => "not_stored",
            Self::ManifestUndecodable => "manifest_undecodable",
        }
    }

    /// Reads the word back.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }
}

impl fmt::Display for IssueCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

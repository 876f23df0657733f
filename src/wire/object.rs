//! Objects of `result_output` (contract §1.3, §3.5): names, and where a bucket keeps them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use sha2::{Digest, Sha256};

use super::result::Field;

/// How often an agent counts up (`.r1` …) before it names an object by its content.
const ALTERNATES_MAX: u32 = 8;

/// The stream behind an object store.
#[must_use]
pub fn stream_name(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// The subject of an object's metadata.
#[must_use]
pub fn meta_subject(bucket: &str, name: &str) -> String {
    format!("$O.{bucket}.M.{}", URL_SAFE.encode(name))
}

/// The subject of an object's chunks.
#[must_use]
pub fn chunk_subject(bucket: &str, nuid: &str) -> String {
    format!("$O.{bucket}.C.{nuid}")
}

/// D18: a pointer names an object of its own result when it begins with the message's `request_id` and `/`.
#[must_use]
pub fn belongs_to(pointer: &str, request_id: &str) -> bool {
    pointer
        .strip_prefix(request_id)
        .is_some_and(|rest| rest.starts_with('/'))
}

/// The names that an agent from 0.63.0 on tries for an output, in order: the plain one, `.r1` … `.r8`, then one made
/// from the content.
#[must_use]
pub fn candidates(request_id: &str, pc_id: &str, field: Field, content: &[u8]) -> Vec<String> {
    let plain = format!("{request_id}/{pc_id}/{field}");
    let digest = Sha256::digest(content);
    let hash = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    let mut names = vec![plain.clone()];
    names.extend((1..=ALTERNATES_MAX).map(|number| format!("{plain}.r{number}")));
    names.push(format!("{plain}.h{hash:016x}"));
    names
}

/// An object's name, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// The command.
    pub request_id: &'a str,
    /// The host; agents before 0.63.0 left it out.
    pub pc_id: Option<&'a str>,
    /// Which output.
    pub field: Field,
    /// `r1` … `r8`, or `h` and 16 hexadecimal digits.
    pub alternate: Option<&'a str>,
}

/// Reads a name of an agent's making; `None` for any other, which is no error.
#[must_use]
pub fn parse(name: &str) -> Option<Name<'_>> {
    let (folder, last) = name.rsplit_once('/')?;
    let (field, alternate) = match last.split_once('.') {
        None => (last, None),
        Some((field, alternate)) => (field, Some(alternate)),
    };
    let field = Field::parse(field)?;
    let (request_id, pc_id) = match folder.split_once('/') {
        None => (folder, None),
        Some((request_id, pc_id)) => (request_id, Some(pc_id)),
    };
    Some(Name {
        request_id,
        pc_id,
        field,
        alternate,
    })
}

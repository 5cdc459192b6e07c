//! What a client uploads: transactions of its local queue, and who sends them.

use std::sync::Arc;

use hw_types::RunAs;
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Who writes. Made by a surface from a verified token; nothing here comes from the request body.
#[derive(Clone, Debug)]
pub struct Author {
    /// Tells the author apart from all other users. First part of every idempotency key.
    pub user: String,
    /// The claim `sub` as text: the number 7 and the text "7" are two users of one subject.
    pub subject: String,
    /// The database role that the token asks for.
    pub role: AuthorRole,
    /// The token's payload as it was signed, for `request.jwt.claims`.
    pub claims_json: Arc<str>,
}

impl Author {
    /// As whom the author's statements run.
    pub(crate) fn run_as(&self, role: &str) -> RunAs {
        RunAs {
            role: role.into(),
            subject: self.subject.as_str().into(),
            claims_json: self.claims_json.clone(),
            claimed_role: claimed_role(&self.claims_json).map(Arc::from),
        }
    }
}

/// The claim `role`, whatever it names, so that policies written for PostgREST and Supabase read
/// the same in `request.jwt.claim.role` as in `request.jwt.claims`.
fn claimed_role(claims_json: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Claims {
        role: Option<serde_json::Value>,
    }
    let claims: Claims = serde_json::from_str(claims_json).ok()?;
    // Postgres has no text with a NUL; no role is called like that.
    claims.role?.as_str().filter(|role| !role.contains('\0')).map(str::to_owned)
}

/// The database role that a token asks to write with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuthorRole {
    /// None: the configured one writes.
    #[default]
    Configured,
    /// One of those that tokens may choose.
    Chosen(String),
    /// Another one: refused, unless it is the one that would write anyway.
    NotAllowed(String),
}

/// Names of a client's columns with their values as JSON text, in the order they were sent.
///
/// Values stay text until their column's type is known: a number never passes through a float.
pub type Fields = Vec<(String, Box<RawValue>)>;

/// One local transaction of a client.
#[derive(Clone, Debug)]
pub struct UploadTransaction {
    /// The client's number for it (`tx_id`).
    pub id: i64,
    /// Its operations, at least one, by ascending `op_id`.
    pub operations: Vec<UploadOperation>,
    /// The operations as they were sent, a JSON array; kept with a rejection.
    pub entries: Box<RawValue>,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Insert the row, or set the given columns of the row that is there.
    Put,
    /// Set the given columns of a row that must be there.
    Patch,
    /// Remove the row, if it is there.
    Delete,
}

/// One entry of a client's queue.
#[derive(Clone, Debug)]
pub struct UploadOperation {
    /// The client's number for the entry; ascends over the life of a client's database.
    pub op_id: i64,
    /// What it does.
    pub kind: OperationKind,
    /// The table as the client knows it: an output name of the sync configuration.
    pub table: Arc<str>,
    /// The row's id, as the client knows it.
    pub id: String,
    /// New values; empty for a delete.
    pub data: Fields,
    /// Previous values, when the client tracks them.
    pub old: Option<Fields>,
    /// What the application attached; recorded with a rejection, part of the contents.
    pub metadata: Option<String>,
}

impl UploadTransaction {
    /// The number of its first operation; second half of its key.
    pub fn first_op_id(&self) -> i64 {
        self.operations.first().map_or(0, |operation| operation.op_id)
    }

    /// The number of its last operation; becomes the client's high-water mark.
    pub fn last_op_id(&self) -> i64 {
        self.operations.last().map_or(0, |operation| operation.op_id)
    }

    /// SHA-256 of the contents. Equal for equal operations, whatever white space lies between
    /// their fields on the wire.
    pub(crate) fn contents(&self) -> [u8; 32] {
        let mut hash = Contents(Sha256::new());
        hash.number(self.operations.len());
        for operation in &self.operations {
            hash.text(&operation.op_id.to_string());
            hash.number(operation.kind as usize);
            hash.text(&operation.table);
            hash.text(&operation.id);
            hash.fields(&operation.data);
            hash.number(usize::from(operation.old.is_some()));
            hash.fields(operation.old.as_deref().unwrap_or_default());
            hash.number(usize::from(operation.metadata.is_some()));
            hash.text(operation.metadata.as_deref().unwrap_or_default());
        }
        hash.0.finalize().into()
    }
}

/// Every part goes in behind its length, so that no two contents run together.
struct Contents(Sha256);

impl Contents {
    fn number(&mut self, number: usize) {
        self.0.update((number as u64).to_be_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.0.update(text);
    }

    fn fields(&mut self, fields: &[(String, Box<RawValue>)]) {
        self.number(fields.len());
        // The order of columns has no meaning; two SDK versions may choose different ones.
        let mut sorted: Vec<_> = fields.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        for (name, value) in sorted {
            self.text(name);
            self.text(value.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn transaction(data: &[(&str, &str)], metadata: Option<&str>) -> UploadTransaction {
        let data = data.iter().map(|(name, value)| ((*name).to_owned(), raw(value))).collect();
        let operation = UploadOperation {
            op_id: 7,
            kind: OperationKind::Put,
            table: "t".into(),
            id: "1".into(),
            data,
            old: None,
            metadata: metadata.map(str::to_owned),
        };
        UploadTransaction { id: 1, operations: vec![operation], entries: raw("[]") }
    }

    #[test]
    fn contents_are_equal_exactly_when_the_operations_are() {
        let one = transaction(&[("a", "1"), ("b", "2")], None).contents();
        assert_eq!(one, transaction(&[("b", "2"), ("a", "1")], None).contents());
        for other in [
            transaction(&[("a", "1"), ("b", "3")], None),
            transaction(&[("a", "1")], None),
            transaction(&[("a", "1.0"), ("b", "2")], None),
            transaction(&[("a", "1"), ("b", "2")], Some("")),
        ] {
            assert_ne!(one, other.contents());
        }
    }
}

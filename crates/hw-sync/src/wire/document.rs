//! JSON objects that a client chose, kept as the text that they came as.
//!
//! A value takes up to sixteen times its text in memory, and what a stream keeps of its request is
//! kept for as long as it lives. It is read whenever the request is resolved.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The text of a JSON object.
#[derive(Clone, Debug)]
pub struct Document(Box<RawValue>);

impl Document {
    /// The object.
    pub fn read(&self) -> Map<String, Value> {
        // It was valid when it came; nesting deeper than the parser follows is nothing.
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// Bytes of its text.
    pub fn len(&self) -> usize {
        self.0.get().len()
    }

    /// Whether the object has no fields.
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }
}

impl Default for Document {
    fn default() -> Document {
        Document(RawValue::from_string("{}".into()).expect("invariant: it is JSON"))
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Document) -> bool {
        self.0.get() == other.0.get()
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Document, D::Error> {
        let text = Box::<RawValue>::deserialize(from)?;
        // Nesting is bounded only where values are made.
        match serde_json::from_str::<Map<String, Value>>(text.get()) {
            Ok(_) => Ok(Document(text)),
            Err(_) => Err(D::Error::custom("not an object")),
        }
    }
}

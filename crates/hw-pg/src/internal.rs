//! Two types of the catalog that `tokio_postgres` does not read.

use std::error::Error;
use tokio_postgres::types::{FromSql, Type};

/// A `"char"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Char(pub u8);

impl<'a> FromSql<'a> for Char {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Char, Box<dyn Error + Sync + Send>> {
        // The byte 0 is sent as nothing.
        Ok(Char(raw.first().copied().unwrap_or_default()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::CHAR
    }
}

/// A transaction id of 32 bits; the version of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Xid(pub u32);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Xid, Box<dyn Error + Sync + Send>> {
        Ok(Xid(u32::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID
    }
}

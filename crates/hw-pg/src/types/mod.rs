//! Types of the source, and the one way from what Postgres sends to canonical bytes.
//!
//! In: oids and catalog rows; values in binary form (binary COPY, binary tuples) or in text form
//! (text tuples, text COPY). Out: [`PgType`]s and canonical bytes (`hw_types::pgtype`).
//! Invariant (F-30): both forms of one value give equal bytes, and
//! [`hw_types::text::write_text`] gives back what Postgres prints.

mod binary;
mod catalog;
mod containers;
mod datetimes;
mod scalars;

pub use catalog::{TypeCatalog, changes_without_a_write, read_types};

use hw_types::relation::quote_ident;
use hw_types::text::DamagedValue;
use hw_types::{Column, PgType, RowBuilder};
use std::cell::{Cell, RefCell};

/// In which form a column's values arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// What the type's send function makes.
    Binary,
    /// What the type's output function makes.
    Text,
}

/// The form in which a binary COPY or query can read a type.
pub fn form_of(ty: &PgType) -> Form {
    if ty.has_binary() { Form::Binary } else { Form::Text }
}

/// The select list that reads columns for [`decode`]: columns without a usable binary form are
/// read in text form.
///
/// A cast would not do: `inet::text` prints a mask that the output function does not print, and
/// `bpchar::text` drops the padding. `format('%s')` calls the output function, and `num_nulls`
/// is true to a composite whose fields are all NULL.
pub fn binary_select_list(columns: &[Column]) -> (String, Vec<Form>) {
    let mut list = String::new();
    let mut forms = Vec::with_capacity(columns.len());
    for column in columns {
        if !list.is_empty() {
            list += ", ";
        }
        let name = quote_ident(&column.name);
        let form = form_of(&column.pg_type);
        match form {
            Form::Binary => list += &name,
            Form::Text => {
                list += &format!(
                    "CASE WHEN pg_catalog.num_nulls({name}) = 0 \
                     THEN pg_catalog.format('%s', {name}) END AS {name}"
                );
            }
        }
        forms.push(form);
    }
    (list, forms)
}

/// Whether a value has the shape that its type has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It has.
    Exact,
    /// It is of a time before or behind an ALTER TYPE of a composite: fields that it lacks, or that
    /// are no values of their types, were read as NULL, fields that the type lacks were left out.
    OtherTime,
}

/// Appends a value in the given form to a row.
///
/// - Returns: whether it fits; a value that does not is stored as far as it can be read, and its
///   table must be copied again (FD-15).
/// - Errors: as [`decode_binary`].
pub fn decode(
    form: Form,
    ty: &PgType,
    input: &[u8],
    row: &mut RowBuilder,
) -> Result<Fit, DamagedValue> {
    MISFIT.set(false);
    decode_any(form, ty, input, row)?;
    Ok(if MISFIT.get() { Fit::OtherTime } else { Fit::Exact })
}

fn decode_any(
    form: Form,
    ty: &PgType,
    input: &[u8],
    row: &mut RowBuilder,
) -> Result<(), DamagedValue> {
    match form {
        Form::Binary => decode_binary(ty, input, row),
        Form::Text => match std::str::from_utf8(input) {
            Ok(text) => decode_text(ty, text, row),
            Err(_) => Err(DamagedValue::of("text")),
        },
    }
}

/// Appends a value in binary form to a row.
///
/// Where the canonical form is the binary form, the bytes are pushed as they are, after a check
/// that costs no allocation.
///
/// - Errors: the bytes are not a value of the type; a type that has text form only. The row is
///   left as it was.
pub fn decode_binary(ty: &PgType, input: &[u8], row: &mut RowBuilder) -> Result<(), DamagedValue> {
    match binary::as_is(ty, input)? {
        Some(bytes) => row.push(hw_types::Cell::Value(bytes)),
        None => with_scratch(|scratch| {
            binary::rebuild(ty, input, scratch)?;
            row.push(hw_types::Cell::Value(scratch));
            Ok(())
        })?,
    }
    Ok(())
}

/// Appends a value in text form to a row.
///
/// - Takes: what the type's output function prints under the pinned settings.
/// - Errors: the text is not a value of the type. The row is left as it was.
pub fn decode_text(ty: &PgType, input: &str, row: &mut RowBuilder) -> Result<(), DamagedValue> {
    match ty.base() {
        PgType::Text { .. } | PgType::Bpchar | PgType::Json | PgType::Jsonb => {
            row.push(hw_types::Cell::Value(input.as_bytes()));
            Ok(())
        }
        base => with_scratch(|scratch| {
            scalars::append(base, input, scratch)?;
            row.push(hw_types::Cell::Value(scratch));
            Ok(())
        }),
    }
}

/// Appends the canonical bytes of a value in binary form to a buffer.
pub fn canonical_from_binary(
    ty: &PgType,
    input: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), DamagedValue> {
    match binary::as_is(ty, input)? {
        Some(bytes) => out.extend_from_slice(bytes),
        None => binary::rebuild(ty, input, out)?,
    }
    Ok(())
}

/// Appends the canonical bytes of a value in text form to a buffer.
pub fn canonical_from_text(
    ty: &PgType,
    input: &str,
    out: &mut Vec<u8>,
) -> Result<(), DamagedValue> {
    scalars::append(ty, input, out)
}

/// Notes for [`decode`] that a composite inside of the value has other fields than its type.
fn note_misfit() {
    MISFIT.set(true);
}

thread_local! {
    /// Set by [`note_misfit`].
    static MISFIT: Cell<bool> = const { Cell::new(false) };
    /// One buffer a thread for values that are rebuilt, so that a column costs no allocation.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Above this the buffer is given back after use instead of being kept by the thread.
const MAX_KEPT_BYTES: usize = 1 << 20;

fn with_scratch(
    make: impl FnOnce(&mut Vec<u8>) -> Result<(), DamagedValue>,
) -> Result<(), DamagedValue> {
    let mut scratch = SCRATCH.with(RefCell::take);
    scratch.clear();
    let made = make(&mut scratch);
    if scratch.capacity() <= MAX_KEPT_BYTES {
        SCRATCH.with(|kept| kept.replace(scratch));
    }
    made
}

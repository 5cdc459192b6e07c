//! The byte form of facts: a version, then every field in order. Damaged bytes are an error,
//! never a panic and never an allocation that they do not fill.

use super::*;
use crate::varint;

/// The version that is written.
const VERSION: u8 = 1;

/// The bytes are not facts, or of a newer version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is noted of a table is damaged or of a newer version")]
pub struct DamagedFacts;

/// What has a byte form.
trait Coded: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut &[u8]) -> Option<Self>;
}

pub(super) fn encode(facts: &TableFacts) -> Vec<u8> {
    let mut out = vec![VERSION];
    facts.put(&mut out);
    out
}

pub(super) fn decode(bytes: &[u8]) -> Result<TableFacts, DamagedFacts> {
    let Some((&VERSION, mut rest)) = bytes.split_first() else { return Err(DamagedFacts) };
    let facts = TableFacts::take(&mut rest).ok_or(DamagedFacts)?;
    rest.is_empty().then_some(facts).ok_or(DamagedFacts)
}

impl Coded for u64 {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, *self);
    }

    fn take(input: &mut &[u8]) -> Option<u64> {
        varint::take(input)
    }
}

impl Coded for u32 {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, u64::from(*self));
    }

    fn take(input: &mut &[u8]) -> Option<u32> {
        u32::try_from(varint::take(input)?).ok()
    }
}

/// As the 32 bits that it is: negative modifiers are common.
impl Coded for i32 {
    fn put(&self, out: &mut Vec<u8>) {
        self.wrapping_add(1).cast_unsigned().put(out);
    }

    fn take(input: &mut &[u8]) -> Option<i32> {
        Some(u32::take(input)?.cast_signed().wrapping_sub(1))
    }
}

impl Coded for i16 {
    fn put(&self, out: &mut Vec<u8>) {
        u32::from(self.cast_unsigned()).put(out);
    }

    fn take(input: &mut &[u8]) -> Option<i16> {
        Some(u16::try_from(u32::take(input)?).ok()?.cast_signed())
    }
}

impl Coded for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(input: &mut &[u8]) -> Option<bool> {
        match u32::take(input)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl Coded for String {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put_bytes(out, self.as_bytes());
    }

    fn take(input: &mut &[u8]) -> Option<String> {
        String::from_utf8(varint::take_bytes(input)?.to_vec()).ok()
    }
}

impl<T: Coded> Coded for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.len() as u64);
        self.iter().for_each(|item| item.put(out));
    }

    fn take(input: &mut &[u8]) -> Option<Vec<T>> {
        let count = varint::take(input)?;
        // Every item takes a byte at least, so a damaged count ends at the end of the input.
        (0..count).map(|_| T::take(input)).collect()
    }
}

impl<T: Coded> Coded for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|item| item.put(out));
    }

    fn take(input: &mut &[u8]) -> Option<Option<T>> {
        match bool::take(input)? {
            true => Some(Some(T::take(input)?)),
            false => Some(None),
        }
    }
}

/// Structs, field by field.
macro_rules! coded_struct {
    ($($name:ident { $($field:ident),* })*) => {$(
        impl Coded for $name {
            fn put(&self, out: &mut Vec<u8>) {
                let $name { $($field),* } = self;
                $($field.put(out);)*
            }

            fn take(input: &mut &[u8]) -> Option<$name> {
                Some($name { $($field: Coded::take(input)?),* })
            }
        }
    )*};
}

/// Enums: a number, then what the variant holds.
macro_rules! coded_enum {
    ($($name:ident { $($number:literal => $variant:ident $(($($part:ident),*))?),* })*) => {$(
        impl Coded for $name {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant $(($($part),*))? => {
                        out.push($number);
                        $($($part.put(out);)*)?
                    })*
                }
            }

            fn take(input: &mut &[u8]) -> Option<$name> {
                match u32::take(input)? {
                    $($number => Some($name::$variant $(($({
                        let $part = Coded::take(input)?;
                        $part
                    }),*))?),)*
                    _ => None,
                }
            }
        }
    )*};
}

impl Coded for RelationId {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(input: &mut &[u8]) -> Option<RelationId> {
        u32::take(input).map(RelationId)
    }
}

coded_struct! {
    TableName { schema, name }
    ColumnFacts {
        number, name, type_oid, type_modifier, generated, not_null, deterministic, missing, version
    }
    TypeFacts { oid, made }
    EnumLabel { oid, label, version }
    TypeAttribute { number, name, type_oid, type_modifier, version }
    LeafFacts {
        id, name, kind, persistence, filenode, attachment, replica_identity, primary_key,
        identity_index
    }
    Actions { insert, update, delete, truncate }
    SentFacts { publication, version, membership, via_root, actions, columns, row_filter }
    TableFacts {
        id, name, kind, persistence, columns, types, replica_identity, primary_key,
        identity_index, leaves, ancestors, role, access, row_security, owned, publication,
        published
    }
}

coded_enum! {
    TableKind {
        0 => Ordinary, 1 => Partitioned, 2 => View, 3 => MaterializedView, 4 => Foreign, 5 => Other
    }
    Persistence { 0 => Permanent, 1 => Unlogged, 2 => Temporary }
    Generated { 0 => No, 1 => Stored, 2 => Virtual }
    ReplicaIdentity { 0 => Default, 1 => Index, 2 => Full, 3 => Nothing }
    MadeOf {
        0 => Base, 1 => Enum(labels), 2 => Composite(attributes), 3 => Domain(base, modifier),
        4 => Range(subtype), 5 => Multirange(subtype), 6 => Array(element, delimiter),
        7 => Text
    }
    Access { 0 => All, 1 => Columns(numbers), 2 => None, 3 => NoSchema }
    RowSecurity { 0 => Off, 1 => ShowsAll, 2 => Hides }
    // 1 was a schema without since when the table is in it: of such a table nothing is noted.
    Membership {
        0 => Listed(oid), 2 => AllTables, 3 => Schema(oid, version),
        4 => AncestorListed(oid, attachment), 5 => AncestorSchema(oid, version, attachment)
    }
    Published { 0 => No, 1 => Under(root), 2 => Sent(sent) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> TableFacts {
        TableFacts {
            id: RelationId(16_384),
            name: TableName::new("public", "t"),
            kind: TableKind::Partitioned,
            persistence: Persistence::Unlogged,
            columns: vec![ColumnFacts {
                number: 3,
                name: "ä".into(),
                type_oid: 25,
                type_modifier: -1,
                generated: Generated::Virtual,
                not_null: true,
                deterministic: false,
                missing: Some("{1}".into()),
                version: u32::MAX,
            }],
            types: [
                MadeOf::Base,
                MadeOf::Enum(vec![EnumLabel { oid: 1, label: "a".into(), version: 7 }]),
                MadeOf::Composite(vec![TypeAttribute {
                    number: -7,
                    name: "f".into(),
                    type_oid: 23,
                    type_modifier: 259,
                    version: 9,
                }]),
                MadeOf::Domain(23, i32::MIN),
                MadeOf::Range(20),
                MadeOf::Multirange(20),
                MadeOf::Array(1, 44),
                MadeOf::Text,
            ]
            .into_iter()
            .zip(1..)
            .map(|(made, oid)| TypeFacts { oid, made })
            .collect(),
            replica_identity: ReplicaIdentity::Index,
            primary_key: vec![1, 2],
            identity_index: vec![2],
            leaves: vec![LeafFacts {
                id: RelationId(5),
                name: TableName::new("other", "t_1"),
                kind: TableKind::Foreign,
                persistence: Persistence::Permanent,
                filenode: 9,
                attachment: u64::MAX,
                replica_identity: ReplicaIdentity::Nothing,
                primary_key: vec![],
                identity_index: vec![],
            }],
            ancestors: vec![TableName::new("public", "root")],
            role: "app".into(),
            access: Access::Columns(vec![1, 3]),
            row_security: RowSecurity::ShowsAll,
            owned: true,
            publication: "headwater".into(),
            published: Published::Sent(SentFacts {
                publication: 77,
                version: 78,
                membership: Membership::AncestorSchema(79, 80, 1 << 63),
                via_root: true,
                actions: Actions { truncate: false, ..Actions::ALL },
                columns: vec![1, 3],
                row_filter: Some(1 << 63),
            }),
        }
    }

    #[test]
    fn facts_round_trip_and_every_cut_or_changed_byte_is_survived() {
        let facts = facts();
        let bytes = facts.encode();
        assert_eq!(TableFacts::decode(&bytes), Ok(facts.clone()));
        for cut in 0..bytes.len() {
            assert_eq!(TableFacts::decode(&bytes[..cut]), Err(DamagedFacts), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = TableFacts::decode(&changed);
            }
        }
        let mut longer = bytes;
        longer.push(0);
        assert_eq!(TableFacts::decode(&longer), Err(DamagedFacts));
    }

    #[test]
    fn a_schema_without_since_when_the_table_is_in_it_is_not_read() {
        assert_eq!(Membership::take(&mut &[0, 79][..]), Some(Membership::Listed(79)));
        assert_eq!(Membership::take(&mut &[1, 79][..]), None);
    }

    #[test]
    fn a_newer_version_is_refused() {
        let mut bytes = facts().encode();
        bytes[0] = VERSION + 1;
        assert_eq!(TableFacts::decode(&bytes), Err(DamagedFacts));
    }
}

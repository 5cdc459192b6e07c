//! Stores that earlier versions wrote.

use std::path::Path;

use hw_store::{Store, StoreError};

use crate::{copy_dir, small};

#[test]
fn a_store_of_format_1_is_refused_with_the_way_out_and_left_as_it_is() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    copy_dir(&fixture, &store);
    let error = Store::open(&small(&store)).unwrap_err();
    assert!(matches!(error, StoreError::Format { expected: 3, .. }));
    assert_eq!(
        error.diagnostic().to_string().replace(&dir.path().display().to_string(), ""),
        "error[HW3005]: store in /store has format 1, this version reads format 3\n  \
         mend:  remove the directory and start again, with --take-over because the slot is the \
         removed store's; everything is copied anew from Postgres. To go back, start the version that \
         wrote it"
    );
    for file in crate::files_below(&fixture) {
        let copy = store.join(file.strip_prefix(&fixture).unwrap());
        assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(file).unwrap());
    }
}

//! A model of the official client: buckets by their operations (`powersync-protocol.md` 6.4),
//! every checksum checked, tables as the newest operation over all buckets says.

use crate::published::Published;
use crate::sync_view::{BucketState, OpKind, OperationPage, ReadLimit, Reading, SyncView};
use hw_expr::sync_config::{Limits, Request};
use hw_types::{OpId, Place};
use std::collections::{BTreeMap, BTreeSet};

/// Follows buckets as the official client does.
#[derive(Default)]
pub(super) struct Client {
    buckets: BTreeMap<String, ClientBucket>,
}

/// A client's copy of one bucket.
#[derive(Default)]
pub(super) struct ClientBucket {
    pub rows: BTreeMap<(String, String, String), (u64, u32, String)>,
    add: u32,
    pub after: u64,
}

impl Client {
    /// Syncs with a published state; pages of `rows` operations. Checks every checksum.
    pub fn sync(&mut self, user: &str, published: &Published, rows: usize) {
        let view = published.sync_view().expect("a configuration is served");
        let sync = view.sync;
        let jwt = serde_json::json!({ "sub": user });
        let parameters = serde_json::json!({});
        let request = Request {
            jwt: &jwt,
            parameters: &parameters,
            subscriptions: &[],
            include_defaults: true,
        };
        let resolution = view.resolve(&request, &Limits::default()).unwrap();
        let mut seen = BTreeSet::new();
        for bucket in &resolution.buckets {
            let name = sync.bucket_name(bucket.source, &bucket.parameters);
            let state = view.bucket(bucket.source, &bucket.parameters).unwrap();
            let mine = self.buckets.entry(name.clone()).or_default();
            seen.insert(name.clone());
            if let Some(state) = &state {
                mine.pull(bucket.source, &bucket.parameters, state, &view, rows);
            }
            let expected = state.map_or(0, |s| s.checksum);
            assert_eq!(mine.checksum(), expected, "checksum of {name} for {user}");
            mine.after = published.checkpoint.op_id.0;
        }
        self.buckets.retain(|name, _| seen.contains(name));
    }

    pub fn ids(&self, table: &str) -> BTreeMap<String, String> {
        let mut newest: BTreeMap<String, (u64, String)> = BTreeMap::new();
        for bucket in self.buckets.values() {
            for ((ty, id, _), (op, _, data)) in &bucket.rows {
                if ty == table {
                    let entry = newest.entry(id.clone()).or_default();
                    if *op >= entry.0 {
                        *entry = (*op, data.clone());
                    }
                }
            }
        }
        newest.into_iter().map(|(id, (_, data))| (id, data)).collect()
    }
}

impl ClientBucket {
    fn pull(
        &mut self,
        source: usize,
        parameters: &str,
        state: &BucketState,
        view: &SyncView<'_>,
        rows: usize,
    ) {
        let limit = ReadLimit { rows, bytes: usize::MAX };
        let mut place = Place::brought(OpId(self.after));
        loop {
            let reading = view.operations(source, parameters, state, place, limit).unwrap();
            let Reading::Page(page) = reading else { panic!("the newest state can be read") };
            self.take(&page);
            place = page.place;
            if !page.has_more {
                return;
            }
        }
    }

    /// Applies a page, and checks that the sum behind it is the bucket's.
    pub fn take(&mut self, page: &OperationPage) {
        let mut last = None;
        for op in &page.operations {
            assert!(last < Some(op.op_id), "operations ascend");
            last = Some(op.op_id);
            match op.kind {
                OpKind::Put | OpKind::Remove => {
                    let t = op.texts().unwrap();
                    let key = (t.object_type.into(), t.object_id.into(), t.subkey.into());
                    if let Some((_, checksum, _)) = self.rows.remove(&key) {
                        self.add = self.add.wrapping_add(checksum);
                    }
                    match t.data {
                        Some(data) => {
                            self.rows.insert(key, (op.op_id.0, op.checksum, data.into()));
                        }
                        None => self.add = self.add.wrapping_add(op.checksum),
                    }
                }
                OpKind::Move => self.add = self.add.wrapping_add(op.checksum),
                OpKind::Clear => {
                    self.rows.clear();
                    self.add = op.checksum;
                }
            }
        }
        self.after = last.map_or(self.after, |op| op.0);
        assert_eq!(page.place.sum, Some(self.checksum()), "the sum behind a page");
    }

    pub fn checksum(&self) -> u32 {
        self.rows.values().fold(self.add, |sum, (_, c, _)| sum.wrapping_add(*c))
    }
}

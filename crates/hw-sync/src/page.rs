//! Data lines made once and shared by every client that needs the same.
//!
//! In: a bucket, a position and the size of a line. Out: a [`Page`], encoded once, compressed
//! once. What all pages hold together, in the cache or on their way to sockets, is counted in a
//! [`Budget`]; above it lines become small, so that thousands of slow readers cannot fill the
//! memory (E-5), and nobody waits for them.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use hw_http::budget::Budget;
use hw_http::gzip::{self, Block};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::source::{PageEnd, SourceError, Version, View};
use crate::state::bucket::Bucket;
use crate::state::session::{PageRead, PageRequest, PageSize};
use crate::wire::line::{DataForm, OperationKind};
use crate::wire::ndjson::DataLine;
use hw_types::OpId;
#[cfg(test)]
use hw_types::Place;

/// Operations by kind, for the log line at the end of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    /// PUT operations.
    pub put: u64,
    /// REMOVE operations.
    pub remove: u64,
    /// MOVE operations.
    pub moved: u64,
    /// CLEAR operations.
    pub clear: u64,
}

impl KindCounts {
    fn count(&mut self, kind: OperationKind) {
        match kind {
            OperationKind::Put => self.put += 1,
            OperationKind::Remove => self.remove += 1,
            OperationKind::Move => self.moved += 1,
            OperationKind::Clear => self.clear += 1,
        }
    }

    /// Adds another line's counts.
    pub fn add(&mut self, other: &KindCounts) {
        self.put += other.put;
        self.remove += other.remove;
        self.moved += other.moved;
        self.clear += other.clear;
    }
}

/// One encoded data line.
#[derive(Debug)]
pub struct Page {
    plain: Vec<u8>,
    block: OnceLock<Block>,
    read: PageRead,
    kinds: KindCounts,
    budget: Arc<Budget>,
}

impl Page {
    /// Reads and encodes a line; `None` when the bucket can no longer be read as it was announced.
    pub fn read<V: View>(
        view: &V,
        bucket: &Bucket,
        request: &PageRequest,
        form: DataForm,
        budget: &Arc<Budget>,
    ) -> Result<Option<Page>, SourceError> {
        let mut plain = Vec::new();
        let mut kinds = KindCounts::default();
        let mut line = DataLine::open(&mut plain, &bucket.name, request.place.after, form);
        let limits = request.size.limits();
        let end = view.operations(bucket, request.place, limits, &mut |operation| {
            kinds.count(operation.kind);
            line.operation(operation);
        })?;
        let Some(PageEnd { has_more, place: next }) = end else { return Ok(None) };
        let operations = line.operations() as u64;
        line.close(has_more);
        // Lines grow by doubling and are kept for a while: what was reserved too much is given
        // back once it is worth a copy.
        if plain.capacity() > plain.len() + plain.len() / 4 {
            plain.shrink_to_fit();
        }
        budget.add(plain.len());
        let read = PageRead { next, operations, bytes: plain.len() as u64, has_more };
        Ok(Some(Page { plain, block: OnceLock::new(), read, kinds, budget: budget.clone() }))
    }

    /// The line's bytes.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// The line as a deflate block, made at the first call.
    pub fn block(&self) -> &Block {
        self.block.get_or_init(|| {
            let block = gzip::block(&self.plain);
            self.budget.add(block.deflated.len());
            block
        })
    }

    /// Whether the deflate block has been made.
    pub fn has_block(&self) -> bool {
        self.block.get().is_some()
    }

    /// What the session is told about it.
    pub fn summary(&self) -> PageRead {
        self.read
    }

    /// Its operations by kind.
    pub fn kinds(&self) -> &KindCounts {
        &self.kinds
    }

    /// The line's bytes for a socket, counted in the budget until the socket has them.
    pub fn plain_bytes(self: &Arc<Page>) -> Bytes {
        struct Plain(Arc<Page>);
        impl AsRef<[u8]> for Plain {
            fn as_ref(&self) -> &[u8] {
                &self.0.plain
            }
        }
        Bytes::from_owner(Plain(self.clone()))
    }

    /// The deflate block for a socket.
    pub fn block_bytes(self: &Arc<Page>) -> Bytes {
        struct Deflated(Arc<Page>);
        impl AsRef<[u8]> for Deflated {
            fn as_ref(&self) -> &[u8] {
                &self.0.block().deflated
            }
        }
        self.block();
        Bytes::from_owner(Deflated(self.clone()))
    }

    /// A line with the given bytes.
    #[cfg(test)]
    pub fn of_text(text: &str, budget: &Arc<Budget>) -> Arc<Page> {
        budget.add(text.len());
        let bytes = text.len() as u64;
        Arc::new(Page {
            plain: text.as_bytes().to_vec(),
            block: OnceLock::new(),
            read: PageRead { next: Place::default(), operations: 1, bytes, has_more: false },
            kinds: KindCounts::default(),
            budget: budget.clone(),
        })
    }

    fn held(&self) -> usize {
        self.plain.len() + self.block.get().map_or(0, |block| block.deflated.len())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.budget.give_back(self.held());
    }
}

/// What makes two clients' data lines the same bytes. The version that is served stands for
/// the bucket's name; `until` for the contents, since a bucket up to its last operation never changes
/// in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageKey {
    version: Version,
    incarnation: u32,
    number: u32,
    after: OpId,
    since: OpId,
    lost: bool,
    until: OpId,
    size: PageSize,
    form: DataForm,
}

impl PageKey {
    /// The key of a line of `bucket` while `version` is served; `None` for a bucket that never had a
    /// row, because it has no number that tells it from others. Such a line goes to a client that is
    /// sent its bucket anew, and to nobody else.
    pub fn new(
        version: Version,
        bucket: &Bucket,
        request: &PageRequest,
        form: DataForm,
    ) -> Option<PageKey> {
        (bucket.totals.last_op > OpId(0)).then_some(PageKey {
            version,
            incarnation: bucket.totals.incarnation,
            number: bucket.totals.number,
            after: request.place.after,
            since: request.place.since,
            lost: request.place.lost,
            until: bucket.totals.last_op,
            size: request.size,
            form,
        })
    }
}

type Slot = Arc<OnceCell<Arc<Page>>>;

impl Kept {
    fn bytes(&self) -> usize {
        self.slot.get().map_or(0, |page| page.plain().len())
    }
}

/// Recent pages, oldest out first. A page that is wanted while another client has it read is
/// waited for, not read twice.
#[derive(Debug)]
pub struct PageCache {
    inner: Mutex<Inner>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<PageKey, Kept, foldhash::fast::RandomState>,
    order: VecDeque<PageKey>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    slot: Slot,
    /// When it was last wanted.
    wanted: Instant,
}

impl PageCache {
    /// A cache of at most `limit` bytes of plain lines.
    pub fn new(limit: usize) -> PageCache {
        PageCache { inner: Mutex::default(), limit }
    }

    /// The page under `key`, read by `read` unless it is there or on its way. A failed or
    /// abandoned read leaves nothing behind: the next client reads again.
    pub async fn page<R, E>(&self, key: PageKey, read: impl FnOnce() -> R) -> Result<Arc<Page>, E>
    where
        R: Future<Output = Result<Arc<Page>, E>>,
    {
        let slot = self.slot(key);
        let mut made = 0;
        let page = slot
            .get_or_try_init(|| async {
                let page = read().await?;
                made = page.plain().len();
                Ok::<_, E>(page)
            })
            .await
            .cloned();
        if made > 0 {
            self.keep(&key, &slot, made);
        }
        page
    }

    fn slot(&self, key: PageKey) -> Slot {
        let mut inner = self.inner.lock();
        let wanted = Instant::now();
        if let Some(kept) = inner.slots.get_mut(&key) {
            kept.wanted = wanted;
            return kept.slot.clone();
        }
        let slot = Slot::default();
        inner.slots.insert(key, Kept { slot: slot.clone(), wanted });
        inner.order.push_back(key);
        slot
    }

    /// Gives back what nobody has wanted since: who wants the same lines wants them at about the
    /// same time.
    pub fn forget(&self, since: Instant) {
        let mut inner = self.inner.lock();
        let Inner { slots, order, bytes } = &mut *inner;
        let old = |_: &PageKey, kept: &mut Kept| kept.wanted < since;
        let dropped: Vec<Kept> = slots.extract_if(old).map(|(_, kept)| kept).collect();
        if dropped.is_empty() {
            return;
        }
        *bytes -= dropped.iter().map(Kept::bytes).sum::<usize>().min(*bytes);
        order.retain(|key| slots.contains_key(key));
        slots.shrink_to_fit();
        order.shrink_to_fit();
        drop(inner);
        // Memory is given back outside the lock.
        drop(dropped);
    }

    /// Counts a slot that was filled, unless it was pushed out meanwhile.
    fn keep(&self, key: &PageKey, slot: &Slot, bytes: usize) {
        // Slots of failed reads hold no bytes, so the number of entries has a bound too.
        const ENTRIES: usize = 16 * 1024;
        let mut dropped = Vec::new();
        let mut inner = self.inner.lock();
        if inner.slots.get(key).is_some_and(|kept| Arc::ptr_eq(&kept.slot, slot)) {
            inner.bytes += bytes;
        }
        while inner.bytes > self.limit || inner.order.len() > ENTRIES {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some(kept) = inner.slots.remove(&oldest) {
                inner.bytes = inner.bytes.saturating_sub(kept.bytes());
                dropped.push(kept);
            }
        }
        drop(inner);
        // Memory is given back outside the lock.
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::state::bucket::Totals;

    fn page(budget: &Arc<Budget>, length: usize) -> Arc<Page> {
        Page::of_text(&"x".repeat(length), budget)
    }

    fn key(after: u64) -> PageKey {
        PageKey {
            version: Version { epoch: 1, config: 1 },
            incarnation: 1,
            number: 1,
            after: OpId(after),
            since: OpId(after),
            lost: false,
            until: OpId(99),
            size: PageSize::Full,
            form: DataForm::Text,
        }
    }

    /// The key of a bucket's first line for a client that stands there.
    fn key_of(name: &str, totals: Totals, place: Place) -> Option<PageKey> {
        let bucket = Bucket {
            name: name.into(),
            parameters_at: 1,
            source: 0,
            priority: 3,
            reasons: Box::new([]),
            found_once: true,
            totals,
            place,
        };
        let request = PageRequest { bucket: 0, place, size: PageSize::Small };
        PageKey::new(Version { epoch: 1, config: 1 }, &bucket, &request, DataForm::Text)
    }

    /// A line names its bucket, and what is in the name is not for others.
    #[test]
    fn buckets_that_never_had_a_row_share_no_line() {
        let of = |name: &str, totals: Totals| key_of(name, totals, Place::lost(OpId(7)));
        assert_eq!(of("a[\"amy\"]", Totals::default()), None);
        let had = |number| Totals { number, last_op: OpId(9), ..Totals::default() };
        assert!(of("a[\"amy\"]", had(0)).is_some());
        assert_ne!(of("a[\"amy\"]", had(0)), of("a[\"bob\"]", had(1)));
    }

    /// Who is told to forget what he has is not sent the line of one who stands at the same number.
    #[test]
    fn a_place_that_is_lost_shares_no_line_with_one_that_is_known() {
        let totals = Totals { number: 1, last_op: OpId(9), ..Totals::default() };
        let places = [Place::lost(OpId(7)), Place::brought(OpId(7))];
        let [lost, known] = places.map(|place| key_of("a[]", totals, place));
        assert_ne!(lost, known);
    }

    #[tokio::test]
    async fn a_page_wanted_by_many_is_read_once_and_counted_until_the_last_socket_has_it() {
        let budget = Budget::new(1000);
        let cache = PageCache::new(1500);
        let reads = AtomicUsize::new(0);
        let get = |after: u64| {
            let (budget, reads, cache) = (&budget, &reads, &cache);
            async move {
                let read = || async {
                    reads.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    Ok::<_, SourceError>(page(budget, 600))
                };
                cache.page(key(after), read).await.unwrap()
            }
        };
        let (a, b, c) = tokio::join!(get(1), get(1), get(2));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        assert!(budget.is_short());

        let on_its_way = a.plain_bytes();
        drop((a, b, c));
        // A third page pushes the first out of the cache; its bytes are still at a socket.
        drop(get(3).await);
        assert_eq!(budget.held(), 1800);
        drop(on_its_way);
        assert_eq!(budget.held(), 1200);
        get(1).await;
        assert_eq!(reads.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn fd_76_pages_that_nobody_wants_any_more_are_given_back() {
        let budget = Budget::new(1 << 20);
        let cache = PageCache::new(1 << 20);
        let get = async |after| {
            let read = || async { Ok::<_, SourceError>(page(&budget, 600)) };
            drop(cache.page(key(after), read).await);
        };
        get(1).await;
        let since = Instant::now();
        get(2).await;
        cache.forget(since);
        assert_eq!(budget.held(), 600, "the one that was wanted since");
        cache.forget(Instant::now() + Duration::from_secs(1));
        assert_eq!(budget.held(), 0);
        get(2).await;
        assert_eq!(budget.held(), 600);
    }

    #[tokio::test]
    async fn a_failed_read_is_tried_again_by_the_next_client() {
        let budget = Budget::new(1000);
        let cache = PageCache::new(1500);
        let failed = cache.page(key(1), || async { Err(SourceError("no".into())) }).await;
        assert!(failed.is_err());
        let read = || async { Ok::<_, SourceError>(page(&budget, 10)) };
        assert!(cache.page(key(1), read).await.is_ok());
    }

    #[test]
    fn the_compressed_form_is_made_once_and_counted() {
        let budget = Budget::new(1000);
        let page = page(&budget, 5000);
        let bytes = page.block_bytes();
        assert_eq!(page.block_bytes().as_ptr(), bytes.as_ptr());
        assert_eq!(budget.held(), 5000 + bytes.len());
        drop(page);
        assert!(budget.held() > 0);
        drop(bytes);
        assert_eq!(budget.held(), 0);
    }
}

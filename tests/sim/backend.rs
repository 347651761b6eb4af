//! Model backends: three kinds of places that hold bytes under names, and everything that goes wrong on the way to them.
//!
//! A call goes out, takes effect and comes back as three separate events. The effect belongs to the world, not to the
//! caller: once a request is under way it may take effect although its answer is lost, long after the caller has given up,
//! or after the caller's process has died. What is on a backend changes nowhere else, so the checks hook in here.

mod bodies;

use super::channel::oneshot;
use super::executor::{Sim, WORLD};
use bodies::Arriving;
use md5::{Digest, Md5};
use s3_orchestrator::backend::directory::paths;
use s3_orchestrator::backend::port::{BlobHead, Put, Stored, Unfinished, UpstreamPayload};
use s3_orchestrator::base::failure::Kind;
use s3_orchestrator::base::{BackendName, Blame, Clock, Dice, Failure, Retry};
use s3_orchestrator::store::record::PartRecord;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};
use std::time::Duration;

pub use bodies::{Sink, Source};

pub type Body = Rc<[u8]>;

/// What kind of place it is, as measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Verifies SHA-256, answers MD5s as entity tags.
    GoodEndpoint,
    /// Verifies nothing, its entity tags are random.
    PoorEndpoint,
    /// No entity tags. What was not synced is lost when the power goes.
    Directory,
}

/// Chances per mille, by call.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Refused or unreachable before anything happened.
    pub before: u64,
    /// Happened, but the answer is lost.
    pub answer_lost: u64,
    /// The caller is told nothing and gives up; it happens much later, or never.
    pub late: u64,
    /// Takes long.
    pub slow: u64,
    /// A body breaks off midway (uploads and downloads).
    pub broken_body: u64,
    /// "No room" although the quota says otherwise.
    pub full: u64,
}

impl Faults {
    pub const NONE: Self = Self { before: 0, answer_lost: 0, late: 0, slow: 0, broken_body: 0, full: 0 };
    /// Where what walks over everything should come to its end now and then.
    pub const FEW: Self = Self { before: 4, answer_lost: 4, late: 6, slow: 10, broken_body: 10, full: 1 };
    pub const SOME: Self = Self { before: 15, answer_lost: 12, late: 12, slow: 20, broken_body: 30, full: 3 };
}

/// Bytes sent may appear so long after they were given up; the settle time must be longer.
pub const LATE_MAX: Duration = Duration::from_millis(8_000);

#[derive(Clone)]
pub struct Object {
    pub body: Body,
    pub etag: String,
    durable: bool,
    /// Of an upload: its version may be newer than its name says.
    assembled: bool,
    /// What a directory has in its place if the power goes before it is durable: the upload that it was made of.
    made_of: Option<(String, Upload)>,
}

#[derive(Clone)]
struct Part {
    nonce: String,
    etag: String,
    body: Body,
}

#[derive(Clone)]
struct Upload {
    name: String,
    /// By number; an endpoint keeps one attempt of each, a directory all of them.
    parts: Vec<(u16, Part)>,
}

#[derive(Default)]
struct Contents {
    objects: BTreeMap<String, Object>,
    /// A directory's half-written files, by the final name.
    temporary: BTreeMap<String, u64>,
    /// Deleted from a directory that was not synced since.
    unlinked: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// Names that an operator has removed from the database without their bytes: whatever is there, nobody is charged for.
    disowned: BTreeSet<String>,
    /// What was being written, or uploaded in parts, under these names when the database was put back: its rows are as old as the
    /// dump, or are not there.
    unfinished: BTreeSet<String>,
}

impl Contents {
    fn bytes(&self) -> u64 {
        let objects = self.objects.iter().filter(|(name, _)| !self.disowned.contains(*name));
        let objects = objects.map(|(_, object)| object.body.len());
        let temporary = self.temporary.iter().filter(|(name, _)| self.counts(name)).map(|(_, bytes)| *bytes as usize);
        let uploads = self.uploads.values().filter(|one| self.counts(&one.name));
        let parts = uploads.flat_map(|one| &one.parts).map(|(_, part)| part.body.len());
        objects.chain(temporary).chain(parts).sum::<usize>() as u64
    }

    /// Whether what is not an object yet under this name is charged.
    fn counts(&self, name: &str) -> bool {
        !self.disowned.contains(name) && !self.unfinished.contains(name)
    }

    /// Names of half-written files and of what open uploads will become.
    fn names_of_unfinished(&self) -> impl Iterator<Item = &String> {
        self.temporary.keys().chain(self.uploads.values().map(|upload| &upload.name))
    }

    /// Names of all objects, of half-written files and of what open uploads will become.
    fn names(&self) -> impl Iterator<Item = &String> {
        self.objects.keys().chain(self.names_of_unfinished())
    }
}

/// What the checks are told after each change of what a backend holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    Appeared,
    Gone,
    Disowned,
}

pub type Watch = Rc<dyn Fn(usize, &str, Effect)>;

pub struct Backend {
    pub name: BackendName,
    pub index: usize,
    pub flavour: Flavour,
    sim: Sim,
    contents: RefCell<Contents>,
    /// As `contents.bytes()`, kept up.
    bytes: Cell<u64>,
    pub faults: Cell<Faults>,
    /// Nobody reaches it before this time.
    down_until_nanos: Cell<u64>,
    watch: RefCell<Option<Watch>>,
    /// Test-only: bytes live under the bucket and key alone, as if names were reused (TRAPS L1).
    pub names_reused: Cell<bool>,
    /// Test-only: a directory that acknowledges before it syncs.
    pub never_syncs: Cell<bool>,
    this: Weak<Self>,
}

impl Backend {
    pub fn new(sim: &Sim, index: usize, flavour: Flavour) -> Rc<Self> {
        Rc::new_cyclic(|this| Self {
            name: BackendName::new(&format!("b{index}")),
            index,
            flavour,
            sim: sim.clone(),
            contents: RefCell::default(),
            bytes: Cell::new(0),
            faults: Cell::new(Faults::NONE),
            down_until_nanos: Cell::new(0),
            watch: RefCell::default(),
            names_reused: Cell::new(false),
            never_syncs: Cell::new(false),
            this: this.clone(),
        })
    }

    pub fn watched_by(&self, watch: Watch) {
        *self.watch.borrow_mut() = Some(watch);
    }

    /// What a blob's bytes are found under: its name, unless a mutant reuses names.
    pub fn place(&self, name: &str) -> String {
        match name.rsplit_once('!') {
            Some((stem, _)) if self.names_reused.get() => stem.to_owned(),
            _ => name.to_owned(),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    pub fn object(&self, name: &str) -> Option<Object> {
        self.object_at(&self.place(name))
    }

    pub fn object_at(&self, place: &str) -> Option<Object> {
        self.contents.borrow().objects.get(place).cloned()
    }

    /// Everything that takes room, with its size: objects, half-written files, parts.
    pub fn contents(&self) -> Vec<(String, usize)> {
        let contents = self.contents.borrow();
        let objects = contents.objects.iter().map(|(name, object)| (name.clone(), object.body.len()));
        let temporary = contents.temporary.iter().map(|(name, bytes)| (format!("{name} (temporary)"), *bytes as usize));
        let parts = contents.uploads.values().flat_map(|upload| {
            let shown = |number: u16, part: &Part| format!("{} part {number} {}", upload.name, part.nonce);
            upload.parts.iter().map(move |(number, part)| (shown(*number, part), part.body.len()))
        });
        objects.chain(temporary).chain(parts).collect()
    }

    /// Names of everything that takes room, but for what is disowned.
    pub fn names(&self) -> Vec<String> {
        let contents = self.contents.borrow();
        let objects = contents.objects.keys().filter(|name| !contents.disowned.contains(*name));
        objects.chain(contents.names_of_unfinished().filter(|name| contents.counts(name))).cloned().collect()
    }

    /// Time has passed: what a directory holds is durable.
    pub fn write_back(&self) {
        let contents = &mut *self.contents.borrow_mut();
        contents.unlinked.clear();
        contents.objects.values_mut().for_each(|object| (object.durable, object.made_of) = (true, None));
    }

    /// The database was put back: of uploads that a row names it knows parts as they were, others of an endpoint nobody looks for.
    pub fn leave_unfinished(&self, named: &BTreeSet<String>) {
        let contents = &mut *self.contents.borrow_mut();
        let is_left = |name: &&String| self.flavour != Flavour::Directory || named.contains(*name);
        let unfinished: Vec<String> = contents.names_of_unfinished().filter(is_left).cloned().collect();
        contents.unfinished.extend(unfinished);
        self.bytes.set(contents.bytes());
    }

    /// Whatever is under this name, now or later, is nobody's any more.
    pub fn disown(&self, name: &str) {
        self.change(name, Effect::Disowned, |contents| contents.disowned.insert(name.to_owned()));
    }

    /// A row names it again.
    pub fn own(&self, name: &str) {
        self.change(name, Effect::Appeared, |contents| contents.disowned.remove(name));
    }

    /// What is nobody's is swept out of the place.
    pub fn wipe_disowned(&self) {
        let contents = self.contents.borrow();
        let wiped: BTreeSet<String> =
            contents.names().filter(|name| contents.disowned.contains(*name)).cloned().collect();
        drop(contents);
        for name in wiped {
            self.change(&name, Effect::Gone, |contents| {
                contents.objects.remove(&name);
                contents.temporary.remove(&name);
                contents.uploads.retain(|_, upload| upload.name != name);
            });
        }
    }

    pub fn names_and_sizes(&self) -> Vec<(String, u64)> {
        self.contents.borrow().objects.iter().map(|(name, one)| (name.clone(), one.body.len() as u64)).collect()
    }

    pub fn down_for(&self, time: Duration) {
        self.down_until_nanos.set(self.sim.tick().after(time).nanos);
    }

    fn is_down(&self) -> bool {
        self.sim.now_nanos() < self.down_until_nanos.get()
    }

    /// The power goes: whatever a directory had not synced is undone, or is not.
    pub fn power_lost(&self) {
        if self.flavour != Flavour::Directory {
            return;
        }
        let chosen = |names: &mut dyn Iterator<Item = &String>| -> Vec<String> {
            names.filter(|_| self.sim.chance(600)).cloned().collect()
        };
        let (half_written, renamed, unlinked) = {
            let contents = self.contents.borrow();
            let unsynced = contents.objects.iter().filter(|(_, one)| !one.durable);
            let half_written = chosen(&mut contents.temporary.keys());
            (half_written, chosen(&mut unsynced.map(|(name, _)| name)), chosen(&mut contents.unlinked.keys()))
        };
        for name in half_written {
            self.change(&name, Effect::Gone, |contents| contents.temporary.remove(&name));
        }
        for name in renamed {
            self.change(&name, Effect::Gone, |contents| {
                let made_of = contents.objects.remove(&name).and_then(|object| object.made_of);
                contents.uploads.extend(made_of);
            });
        }
        for name in unlinked {
            self.change(&name, Effect::Appeared, |contents| {
                let back = contents.unlinked.remove(&name);
                contents.objects.extend(back.map(|object| (name.clone(), object)));
            });
        }
        let contents = &mut *self.contents.borrow_mut();
        contents.unlinked.clear();
        contents.objects.values_mut().for_each(|object| object.durable = true);
    }

    /// fsync of a directory.
    fn synced(&self, name: &str) {
        if self.flavour == Flavour::Directory && !self.never_syncs.get() {
            let mut contents = self.contents.borrow_mut();
            contents.unlinked.remove(name);
            if let Some(object) = contents.objects.get_mut(name) {
                (object.durable, object.made_of) = (true, None);
            }
        }
    }

    /// The only way to change what is there.
    fn change<T>(&self, name: &str, effect: Effect, change: impl FnOnce(&mut Contents) -> T) -> T {
        let result = change(&mut self.contents.borrow_mut());
        self.bytes.set(self.contents.borrow().bytes());
        self.sim.event(self.bytes.get() ^ (self.index as u64) << 56);
        let watch = self.watch.borrow().clone();
        if let Some(watch) = watch {
            watch(self.index, name, effect);
        }
        result
    }

    /// For mutants: bytes change their place without any call, and stay there when the power goes: that is another's bug.
    pub fn rename(&self, from: &str, to: &str) {
        let (from, to) = (self.place(from), self.place(to));
        self.change(&to, Effect::Appeared, |contents| {
            if let Some(object) = contents.objects.remove(&from) {
                contents.objects.insert(to.clone(), Object { durable: true, made_of: None, ..object });
            }
        });
    }

    /// For mutants: the same bytes under another name.
    pub fn duplicate(&self, from: &str, to: &str) {
        let to = self.place(to);
        self.change(&to, Effect::Appeared, |contents| {
            if let Some(object) = contents.objects.get(from).cloned() {
                contents.objects.insert(to.clone(), object);
            }
        });
    }

    /// For mutants: gone at once.
    pub fn erase(&self, name: &str) {
        let name = self.place(name);
        self.change(&name, Effect::Gone, |contents| {
            contents.objects.remove(&name);
        });
    }

    fn latency(&self) -> Duration {
        let faults = self.faults.get();
        let micros =
            if self.sim.chance(faults.slow) { 50_000 + self.sim.below(1_500_000) } else { 50 + self.sim.below(3_000) };
        Duration::from_micros(micros)
    }

    fn unavailable(&self, what: &str) -> Failure {
        Failure::backend(format!("{} of {}", what, self.name.as_str()))
    }

    /// One call: out, effect, back; with the faults between them.
    async fn call<T: 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&Self) -> Result<T, Failure> + 'static,
    ) -> Result<T, Failure> {
        let faults = self.faults.get();
        self.sim.sleep(self.latency()).await;
        if self.is_down() || self.sim.chance(faults.before) {
            return Err(self.unavailable(what));
        }
        let late = self.sim.chance(faults.late);
        let lost = late || self.sim.chance(faults.answer_lost);
        let under_way =
            if late { Duration::from_nanos(self.sim.below(LATE_MAX.as_nanos() as u64)) } else { self.latency() };
        let (done, answer) = oneshot();
        let this = self.this.upgrade().expect("a backend that is called exists");
        self.sim.spawn(WORLD, async move {
            this.sim.sleep(under_way).await;
            if late && this.sim.chance(300) {
                return;
            }
            done.send(effect(&this));
        });
        if late {
            self.sim.sleep(self.latency()).await;
            return Err(self.unavailable(what));
        }
        let answer = answer.receive().await;
        self.sim.sleep(self.latency()).await;
        match answer {
            Some(answer) if !lost => answer,
            _ => Err(self.unavailable(what)),
        }
    }

    // ---- bodies in ----

    pub async fn put_bytes(&self, put: Put<'_>, body: &[u8]) -> Result<Stored, Failure> {
        assert_eq!(put.size, body.len() as u64, "a body is as long as was declared");
        let arriving = Arriving::new(&put);
        self.finish_body(arriving, body.into()).await
    }

    pub async fn create(&self, put: Put<'_>) -> Result<Sink, Failure> {
        self.sim.sleep(self.latency()).await;
        let faults = self.faults.get();
        if self.is_down() || self.sim.chance(faults.before) {
            return Err(self.unavailable("create"));
        }
        let breaks_at = self.sim.chance(faults.broken_body).then(|| self.sim.below(put.size + 1));
        let backend = self.this.upgrade().expect("a backend that is called exists");
        let (arriving, writer, size) = (Some(Arriving::new(&put)), put.incarnation, put.size);
        Ok(Sink { backend, arriving, writer, size, bytes: Vec::new(), breaks_at })
    }

    async fn finish_body(&self, arriving: Arriving, body: Body) -> Result<Stored, Failure> {
        if self.sim.chance(self.faults.get().full) {
            self.sim.sleep(self.latency()).await;
            return Err(Failure::new(Kind::NoSpace, Blame::Backend, Retry::OtherBackend, "the disk is full"));
        }
        if self.flavour == Flavour::Directory {
            return self.write_file(arriving, body).await;
        }
        self.call("put", move |this| this.store(arriving, body, true)).await
    }

    /// A directory's steps; each is synced or not when the power goes, and a dead process takes no further one.
    async fn write_file(&self, arriving: Arriving, body: Body) -> Result<Stored, Failure> {
        self.sim.sleep(self.latency()).await;
        if self.is_down() || self.sim.chance(self.faults.get().before) {
            return Err(self.unavailable("write"));
        }
        let len = body.len() as u64;
        let name = self.place(&arriving.name);
        self.change(&name, Effect::Appeared, |contents| {
            contents.temporary.insert(name.clone(), len);
        });
        self.sim.sleep(self.latency()).await; // write, fsync
        let is_part = arriving.part.is_some();
        let stored = self.store(arriving, body, is_part)?; // rename
        self.sim.sleep(self.latency()).await;
        self.synced(&name);
        if self.sim.chance(self.faults.get().answer_lost) { Err(self.unavailable("fsync")) } else { Ok(stored) }
    }

    fn store(&self, arriving: Arriving, body: Body, durable: bool) -> Result<Stored, Failure> {
        if let UpstreamPayload::Sha256(wanted) = arriving.payload
            && self.flavour == Flavour::GoodEndpoint
            && sha256(&body) != wanted
        {
            return Err(refused("the SHA-256 does not match"));
        }
        let name = self.place(&arriving.name);
        let etag = self.etag_of(&body, arriving.part.as_ref().map(|(_, _, nonce)| nonce.as_str()));
        let stored = Stored { etag: etag.clone(), version_id: String::new() };
        let Some((upload, number, nonce)) = arriving.part else {
            self.change(&name, Effect::Appeared, |contents| {
                contents.temporary.remove(&name);
                contents.objects.insert(name.clone(), Object { body, etag, durable, assembled: false, made_of: None });
            });
            return Ok(stored);
        };
        let keeps_all = self.flavour == Flavour::Directory;
        self.change(&name, Effect::Appeared, |contents| {
            contents.temporary.remove(&name);
            let Some(upload) = contents.uploads.get_mut(&upload) else {
                return Err(Failure::new(Kind::NotFound, Blame::Backend, Retry::Never, "no such upload"));
            };
            upload.parts.retain(|(other, part)| *other != number || (keeps_all && part.nonce != nonce));
            upload.parts.push((number, Part { nonce, etag, body }));
            Ok(stored)
        })
    }

    fn etag_of(&self, body: &[u8], nonce: Option<&str>) -> String {
        match self.flavour {
            Flavour::GoodEndpoint => md5_hex(body),
            Flavour::PoorEndpoint => format!("{:032x}", self.sim.roll()),
            Flavour::Directory => nonce.unwrap_or_default().to_owned(),
        }
    }

    // ---- bodies out ----

    pub async fn open(&self, name: &str, size: u64, from: u64, len: u64) -> Result<Source, Failure> {
        let place = self.place(name);
        let body = self
            .call("get", move |this| {
                let contents = this.contents.borrow();
                contents.objects.get(&place).map(|object| object.body.clone()).ok_or_else(not_found)
            })
            .await?;
        if body.len() as u64 != size {
            return Err(Failure::new(
                Kind::Corrupt,
                Blame::Backend,
                Retry::OtherBackend,
                "another length than recorded",
            ));
        }
        let breaks_at = self.sim.chance(self.faults.get().broken_body).then(|| self.sim.below(len + 1));
        let backend = self.this.upgrade().expect("a backend that is called exists");
        Ok(Source { backend, body, from, len, sent: 0, breaks_at })
    }

    // ---- the rest ----

    pub async fn delete(&self, name: &str) -> Result<(), Failure> {
        let (name, place) = (self.place(name), self.place(name));
        self.call("delete", move |this| {
            this.change(&name, Effect::Gone, |contents| {
                let gone = contents.objects.remove(&name);
                if this.flavour == Flavour::Directory {
                    contents.unlinked.extend(gone.map(|object| (name.clone(), object)));
                    contents.temporary.remove(&name);
                    contents.uploads.retain(|_, upload| upload.name != name);
                }
            });
            Ok(())
        })
        .await?;
        self.synced(&place);
        Ok(())
    }

    pub async fn head(&self, name: &str) -> Result<Option<BlobHead>, Failure> {
        let name = self.place(name);
        self.call("head", move |this| {
            let contents = this.contents.borrow();
            Ok(contents.objects.get(&name).map(|one| BlobHead {
                size: one.body.len() as u64,
                etag: one.etag.clone(),
                record: Default::default(),
                key: None,
                assembled: one.assembled,
            }))
        })
        .await
    }

    /// Names and sizes of all objects.
    pub async fn list(&self) -> Result<Vec<(String, u64)>, Failure> {
        self.call("list", |this| Ok(this.names_and_sizes())).await
    }

    pub async fn create_upload(&self, name: &str) -> Result<String, Failure> {
        let name = self.place(name);
        let id = match self.flavour {
            Flavour::Directory => format!("directory {name}"),
            _ => format!("upload-{:016x}", self.sim.roll()),
        };
        self.call("create upload", move |this| {
            this.change(&name, Effect::Appeared, |contents| {
                contents.uploads.entry(id.clone()).or_insert_with(|| Upload { name: name.clone(), parts: Vec::new() });
            });
            Ok(id)
        })
        .await
    }

    pub async fn complete_upload(&self, name: &str, id: &str, parts: &[PartRecord]) -> Result<Stored, Failure> {
        let (name, id, parts) = (self.place(name), id.to_owned(), parts.to_vec());
        let id = if self.flavour == Flavour::Directory { format!("directory {name}") } else { id };
        let place = name.clone();
        let stored = self.call("complete upload", move |this| this.assemble(&name, &id, &parts)).await?;
        self.synced(&place);
        Ok(stored)
    }

    fn assemble(&self, name: &str, id: &str, parts: &[PartRecord]) -> Result<Stored, Failure> {
        let mut body = Vec::new();
        {
            let contents = self.contents.borrow();
            let Some(upload) = contents.uploads.get(id).filter(|upload| upload.name == name) else {
                return match contents.objects.get(name) {
                    // A directory finds its manifest in place.
                    Some(done) if self.flavour == Flavour::Directory => {
                        Ok(Stored { etag: done.etag.clone(), version_id: String::new() })
                    }
                    _ => Err(not_found()),
                };
            };
            for wanted in parts {
                let tag = if wanted.backend_etag.is_empty() { &wanted.etag } else { &wanted.backend_etag };
                let part = upload.parts.iter().find(|(number, part)| *number == wanted.number && part.etag == *tag);
                let Some((_, part)) = part else { return Err(refused("InvalidPart")) };
                body.extend_from_slice(&part.body);
            }
        }
        let etag = match self.flavour {
            Flavour::GoodEndpoint => multipart_etag(parts),
            Flavour::PoorEndpoint => format!("{:032x}-{}", self.sim.roll(), parts.len()),
            Flavour::Directory => String::new(),
        };
        self.change(name, Effect::Appeared, |contents| {
            let durable = self.flavour != Flavour::Directory;
            let made_of = contents.uploads.remove(id).filter(|_| !durable).map(|upload| (id.to_owned(), upload));
            let object = Object { body: body.into(), etag: etag.clone(), durable, assembled: true, made_of };
            contents.objects.insert(name.to_owned(), object);
        });
        Ok(Stored { etag, version_id: String::new() })
    }

    /// Of a directory: half-written files and open uploads.
    pub async fn unfinished(&self) -> Result<Vec<Unfinished>, Failure> {
        self.call("list unfinished", |this| {
            let contents = this.contents.borrow();
            let files = contents.temporary.iter().map(|(name, bytes)| (paths::unfinished(name), *bytes));
            let uploads = contents.uploads.values().map(|one| (parts_of(&one.name), 0));
            let found = files.chain(uploads).filter(|_| this.flavour == Flavour::Directory);
            Ok(found.map(|(path, bytes)| Unfinished { path, bytes }).collect())
        })
        .await
    }

    pub async fn remove_unfinished(&self, path: &str) -> Result<(), Failure> {
        let path = path.to_owned();
        self.call("remove unfinished", move |this| {
            let file = this.contents.borrow().temporary.keys().find(|name| paths::unfinished(name) == path).cloned();
            if let Some(name) = file {
                this.change(&name, Effect::Gone, |contents| contents.temporary.remove(&name));
            }
            let of = |one: &Upload| parts_of(&one.name) == path;
            let upload = this.contents.borrow().uploads.values().find(|one| of(one)).map(|one| one.name.clone());
            if let Some(name) = upload {
                this.change(&name, Effect::Gone, |contents| contents.uploads.retain(|_, one| !of(one)));
            }
            Ok(())
        })
        .await
    }

    pub async fn abort_uploads(&self, name: &str) -> Result<(), Failure> {
        let name = self.place(name);
        self.call("abort uploads", move |this| {
            this.change(&name, Effect::Gone, |contents| contents.uploads.retain(|_, upload| upload.name != name));
            Ok(())
        })
        .await
    }
}

fn parts_of(name: &str) -> String {
    format!("{}{}", paths::unfinished(name), paths::PARTS_SUFFIX)
}

pub fn md5_hex(body: &[u8]) -> String {
    data_hex(&Md5::digest(body))
}

/// MD5 of the parts' MD5s, with their number.
fn multipart_etag(parts: &[PartRecord]) -> String {
    let mut all = Md5::new();
    for part in parts {
        let digest: Vec<u8> =
            (0..16).map(|i| u8::from_str_radix(&part.etag[2 * i..2 * i + 2], 16).expect("hex")).collect();
        all.update(digest);
    }
    format!("{}-{}", data_hex(&all.finalize()), parts.len())
}

fn data_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(body: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body);
    digest.as_ref().try_into().expect("32 bytes")
}

fn not_found() -> Failure {
    Failure::new(Kind::NotFound, Blame::Backend, Retry::OtherBackend, "no such key")
}

fn refused(why: &str) -> Failure {
    Failure::new(Kind::Refused, Blame::Backend, Retry::Never, why)
}

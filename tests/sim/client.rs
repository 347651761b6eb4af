//! Clients: each does one thing after another on a few keys that all of them share, and tells the history what it saw.

use super::backend::{md5_hex, sha256};
use super::channel::oneshot;
use super::counts::count;
use super::exchange::{Response, SimExchange};
use super::history::{Answer, Call, Condition};
use super::world::{BUCKET, KEYS, MARK, VALUE_NAME, World, Written, body_of};
use s3_orchestrator::base::{BucketName, Clock};
use s3_orchestrator::handlers;
use s3_orchestrator::handlers::ports::Ports;
use s3_orchestrator::handlers::request::Request;
use s3_orchestrator::handlers::scratch::Scratch;
use s3_orchestrator::policy::access::Principal;
use s3_orchestrator::proto::http1::{Method, RequestHead};
use s3_orchestrator::proto::operation::Operation;
use s3_orchestrator::proto::sigv4::PayloadMode;
use s3_orchestrator::proto::target::Target;
use s3_orchestrator::proto::xml;
use s3_orchestrator::store::record::Located;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

/// A request as it is sent.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub method: &'static str,
    pub target: String,
    /// Complete lines.
    pub fields: String,
    pub body: Vec<u8>,
    pub sha256: Option<[u8; 32]>,
    pub gone_after: Option<usize>,
    /// Of a write.
    pub operation: u64,
}

impl Ask {
    pub fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), ..Self::default() }
    }

    pub fn field(&mut self, name: &str, value: &str) {
        self.fields.push_str(&format!("{name}: {value}\r\n"));
    }
}

pub struct Client {
    pub world: Rc<World>,
}

impl Client {
    pub async fn run(self) {
        while !self.world.stopping.get() {
            self.world.sim.sleep(Duration::from_micros(self.world.sim.below(30_000))).await;
            let key = KEYS[self.world.sim.below(KEYS.len() as u64) as usize];
            match self.world.sim.below(100) {
                _ if self.world.restores.is_quiet(key) => _ = self.get(key, None).await,
                roll if self.world.restores.is_leaving(key) => match roll {
                    0..30 => self.delete(key).await,
                    _ => _ = self.get(key, None).await,
                },
                0..26 => drop(self.get(key, None).await),
                26..33 => drop(self.get(key, Some(self.world.sim.below(1_000))).await),
                33..40 => self.head(key).await,
                40..65 => self.put(key, Condition::None).await,
                65..66 => super::copy::copy(&self.world, key).await,
                66..71 => self.put(key, Condition::Absent).await,
                71..76 => self.swap(key).await,
                76..85 => self.delete(key).await,
                85..88 => self.delete_many().await,
                88..92 => self.list().await,
                _ => super::multipart::upload(&self.world, key).await,
            }
        }
    }

    async fn put(&self, key: &'static str, condition: Condition) {
        let world = &self.world;
        let size = pick_size(world);
        let (value, operation) = new_value(world, key, size);
        let body = body_of(value, size);
        let etag = md5_hex(&body);
        let mut ask = Ask::new("PUT", format!("/{BUCKET}/{key}"));
        (ask.fields, ask.operation) = (value_fields(value), operation);
        match condition {
            Condition::None => {}
            Condition::Absent => ask.field("if-none-match", "*"),
            Condition::Is(former) => ask.field("if-match", &format!("\"{}\"", etag_of_value(world, former))),
        }
        let wrong = world.sim.chance(30);
        declare(world, &mut ask, &body, wrong);
        ask.gone_after = world.sim.chance(25).then(|| world.sim.below(size as u64 + 1) as usize);
        ask.body = body;
        world.etags.borrow_mut().insert(etag.clone(), value);
        world.called(key, operation, Call::Put { value, condition });
        let declared_wrong = ask.fields.contains("x-wrong");
        let response = call(world, ask).await;
        if response.status == 200 {
            if declared_wrong {
                world.violated("I10 (a wrong body is refused)", format!("value {value} of {key}"));
            }
            if response.field("etag") != Some(&format!("\"{etag}\"")) {
                world.violated("the ETag is the MD5", format!("value {value}: {:?}", response.field("etag")));
            }
        }
        let told = match (told_of_write(world, &response, 200), condition) {
            // `sync` has given the object another ETag since.
            (Answer::Precondition, Condition::Is(former)) if world.removals.renamed(former) => Answer::Nothing,
            (told, _) => told,
        };
        world.answered(key, operation, told);
    }

    /// Compare and swap: reads, then writes if nothing has changed.
    async fn swap(&self, key: &'static str) {
        let response = call(&self.world, Ask::new("HEAD", format!("/{BUCKET}/{key}"))).await;
        if response.field(DEGRADED).is_some() {
            return; // its ETag may be the backend's own
        }
        let value = response.field(&format!("x-amz-meta-{VALUE_NAME}")).and_then(|value| value.parse().ok());
        let etag = response.field("etag").map(|etag| etag.trim_matches('"').to_owned());
        match value.zip(etag).filter(|_| response.status == 200) {
            // Empty bodies all have one ETag.
            Some(_) if response.length == 0 => self.put(key, Condition::None).await,
            Some((value, etag)) => {
                self.world.etags.borrow_mut().insert(etag, value);
                self.put(key, Condition::Is(value)).await;
            }
            None => self.put(key, Condition::Absent).await,
        }
    }

    async fn delete(&self, key: &'static str) {
        let operation = self.world.new_operation();
        self.world.called(key, operation, Call::Delete);
        let response = call(&self.world, Ask::new("DELETE", format!("/{BUCKET}/{key}"))).await;
        self.world.answered(key, operation, told_of_write(&self.world, &response, 204));
    }

    async fn delete_many(&self) {
        let world = &self.world;
        let keys: Vec<&'static str> =
            KEYS.into_iter().filter(|key| world.sim.chance(400) && !world.restores.is_quiet(key)).collect();
        let objects: String = keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect();
        let body = format!("<Delete>{objects}</Delete>").into_bytes();
        let mut ask = Ask::new("POST", format!("/{BUCKET}?delete"));
        ask.field("content-md5", &base64_md5(&body));
        ask.body = body;
        let operations: Vec<(&'static str, u64)> = keys.iter().map(|key| (*key, world.new_operation())).collect();
        operations.iter().for_each(|(key, operation)| world.called(key, *operation, Call::Delete));
        let response = call(world, ask).await;
        let text = String::from_utf8_lossy(&response.body).into_owned();
        for (key, operation) in operations {
            let deleted = response.status == 200 && text.contains(&format!("<Deleted><Key>{key}</Key></Deleted>"));
            world.answered(key, operation, if deleted { Answer::Done } else { Answer::Unknown });
        }
    }

    async fn head(&self, key: &'static str) {
        let operation = self.world.new_operation();
        self.world.called(key, operation, Call::Read);
        let before = self.world.located(BUCKET, key);
        let response = call(&self.world, Ask::new("HEAD", format!("/{BUCKET}/{key}"))).await;
        let told = self.told_of_read(key, &response);
        self.check_absence(key, &response, before);
        if let (Answer::Found(Some(value)), 200) = (told, response.status) {
            let size = self.world.values.borrow()[&value].size as u64;
            if response.length != size {
                self.world.violated("I2 (HEAD)", format!("value {value} has {size} bytes, not {}", response.length));
            }
        }
        self.world.answered(key, operation, claimed(told, &response));
    }

    /// In peace: reads the key until it is told what is there.
    pub async fn look(&self, key: &'static str) {
        for _ in 0..20 {
            if self.get(key, None).await {
                return;
            }
        }
        self.world.violated("I1 (what is there can be read)", format!("{key} cannot be read in peace"));
    }

    /// `range_seed`: asks for a part. Whether the whole answer came.
    async fn get(&self, key: &'static str, range_seed: Option<u64>) -> bool {
        let world = &self.world;
        let operation = world.new_operation();
        let mut ask = Ask::new("GET", format!("/{BUCKET}/{key}"));
        if let Some(seed) = range_seed {
            let from = seed % 200;
            ask.field("range", &format!("bytes={from}-{}", from + seed / 3));
        }
        ask.gone_after = world.sim.chance(20).then(|| world.sim.below(4_000) as usize);
        world.called(key, operation, Call::Read);
        count(&world.counts.reads);
        let before = world.located(BUCKET, key);
        let response = call(world, ask).await;
        let told = self.told_of_read(key, &response);
        self.check_absence(key, &response, before);
        if let Answer::Found(Some(value)) = told {
            self.check_body(value, &response);
        }
        let told = claimed(told, &response);
        world.answered(key, operation, told);
        told != Answer::Nothing && response.is_whole()
    }

    /// Without the database too, a key is only said not to be there if nobody has it: not one that was live all the while.
    fn check_absence(&self, key: &'static str, response: &Response, before: Option<Located>) {
        if response.status == 404 && response.field(DEGRADED).is_some() && !self.world.restores.is_unsettled() {
            count(&self.world.counts.degraded_absences);
            let live = before
                .filter(|before| self.world.located(BUCKET, key).is_some_and(|now| now.version == before.version));
            if let Some(live) = live {
                self.world
                    .violated("I1 (absent is what every backend has said)", format!("{key} has {:?}", live.version));
            }
        }
        if response.status / 100 == 2 && response.field(DEGRADED).is_some() {
            count(&self.world.counts.degraded_reads);
        }
    }

    /// I2: what came is this version's, from its first byte to its last or to where the connection was cut.
    fn check_body(&self, value: u64, response: &Response) {
        let world = &self.world;
        let body = body_of(value, world.values.borrow()[&value].size);
        let from = match response.field("content-range").and_then(|text| text.strip_prefix("bytes ")) {
            Some(range) => range.split_once('-').and_then(|(from, _)| from.parse().ok()).unwrap_or(usize::MAX),
            None => 0,
        };
        let wanted = body.get(from..).unwrap_or_default();
        let whole_length = response.status == 206 || response.length == body.len() as u64;
        if !wanted.starts_with(&response.body) || !whole_length || response.body.len() as u64 > response.length {
            let story = format!("value {value}: {} bytes from {from} are not its own", response.body.len());
            world.violated("I2 (one version)", story);
        }
        if !response.is_whole() {
            count(&world.counts.cut_bodies);
        }
    }

    fn told_of_read(&self, key: &'static str, response: &Response) -> Answer {
        match response.status {
            200 | 206 => {
                let value =
                    response.field(&format!("x-amz-meta-{VALUE_NAME}")).and_then(|text| text.parse::<u64>().ok());
                let known =
                    value.filter(|value| self.world.values.borrow().get(value).is_some_and(|one| one.key == key));
                let mark = response.field(&format!("x-amz-meta-{}", MARK.0));
                if known.is_none() || mark != Some(MARK.1) || response.field("content-type") != Some("text/x-sim") {
                    self.world.violated("I2 (a version has its headers)", format!("{key}: {:?}", response.fields));
                    return Answer::Nothing;
                }
                Answer::Found(known)
            }
            404 => Answer::Found(None),
            _ => Answer::Nothing,
        }
    }

    async fn list(&self) {
        let world = &self.world;
        let operations: Vec<(&'static str, u64)> = KEYS.into_iter().map(|key| (key, world.new_operation())).collect();
        operations.iter().for_each(|(key, operation)| world.called(key, *operation, Call::Read));
        let response = call(world, Ask::new("GET", format!("/{BUCKET}?list-type=2"))).await;
        let page = xml::read_list(&response.body).ok().filter(|_| response.status == 200);
        for (key, operation) in operations {
            let told = page.as_ref().map_or(Answer::Nothing, |page| {
                match page.keys.iter().find(|entry| entry.key == key) {
                    None => Answer::Found(None),
                    // Empty bodies all have one ETag.
                    Some(entry) if entry.size == 0 => Answer::Nothing,
                    Some(entry) => world
                        .etags
                        .borrow()
                        .get(&entry.etag)
                        .map_or(Answer::Nothing, |&value| Answer::Found(Some(value))),
                }
            });
            world.answered(key, operation, told);
        }
    }
}

/// Says of an answer that it was found without the database.
const DEGRADED: &str = "x-s3o-degraded";

/// An answer without the database is one version, whole; that it is the last one is not claimed.
fn claimed(told: Answer, response: &Response) -> Answer {
    if response.field(DEGRADED).is_some() { Answer::Nothing } else { told }
}

/// One request to whichever run of the instance serves now; no status if its process died under it.
pub async fn call(world: &Rc<World>, ask: Ask) -> Response {
    let instance = loop {
        let serving = world.instance.borrow().clone();
        match serving {
            Some(instance) => break instance,
            None => world.sim.sleep(Duration::from_millis(5)).await,
        }
    };
    let (done, answer) = oneshot();
    let group = instance.group;
    let sim = world.sim.clone();
    world.sim.spawn(group, async move {
        let text = format!(
            "{} {} HTTP/1.1\r\nhost: sim\r\n{}content-length: {}\r\n\r\n",
            ask.method,
            ask.target,
            ask.fields,
            ask.body.len()
        );
        let head = RequestHead::parse(text.as_bytes(), &mut 0).expect("a good head").expect("a whole head");
        let mut path = String::new();
        let target = Target::parse(head.target, None, &mut path).expect("a good target");
        let operation = Operation::classify(&head, &target).expect("an operation");
        let principal = Principal::of_bucket("sim", BucketName::parse(BUCKET).expect("a name"));
        let payload = ask.sha256.map_or(PayloadMode::Unsigned, PayloadMode::DeclaredSha256);
        let registry = instance.registry();
        let who = (&**registry, &principal);
        let request = Request::new(&head, operation, target, who, payload, "sim", sim.tick()).expect("a length");
        let is_head = head.method == Method::Head;
        let mut exchange = SimExchange::new(&sim, is_head, ask.body.clone().into(), ask.gone_after);
        let mut scratch = Scratch::default();
        let mut serve = Box::pin(handlers::serve(&*instance, &request, &mut exchange, &mut scratch));
        // What the task asks for while it is polled is this operation's.
        poll_fn(|context| {
            instance.world.serving.set(ask.operation);
            serve.as_mut().poll(context)
        })
        .await;
        drop(serve);
        done.send(exchange.response);
    });
    // Some answers are lost on the way to the client.
    let response = answer.receive().await.unwrap_or_default();
    world.sim.event(u64::from(response.status));
    if world.sim.chance(10) { Response::default() } else { response }
}

/// A value that is written once, to this key.
pub fn new_value(world: &World, key: &'static str, size: usize) -> (u64, u64) {
    let operation = world.new_operation();
    world.values.borrow_mut().insert(operation, Written { key, operation, size });
    (operation, operation)
}

pub fn value_fields(value: u64) -> String {
    format!("content-type: text/x-sim\r\nx-amz-meta-{VALUE_NAME}: {value}\r\nx-amz-meta-{}: {}\r\n", MARK.0, MARK.1)
}

fn etag_of_value(world: &World, value: u64) -> String {
    let etags = world.etags.borrow();
    let (etag, _) = etags.iter().find(|(_, one)| **one == value).expect("a value that was seen has its ETag");
    etag.clone()
}

/// Some bodies are declared, some of them wrongly.
fn declare(world: &World, ask: &mut Ask, body: &[u8], wrong: bool) {
    let mut other = body.to_vec();
    other.push(1);
    let declared = if wrong { &other[..] } else { body };
    match world.sim.below(4) {
        0 => ask.field("content-md5", &base64_md5(declared)),
        1 => ask.sha256 = Some(sha256(declared)),
        2 => {
            let crc = s3_orchestrator::proto::checksum::Digester::of(
                s3_orchestrator::proto::checksum::Algorithm::Crc32,
                declared,
            );
            ask.field("x-amz-checksum-crc32", &crc.to_base64());
        }
        _ => return,
    }
    if wrong {
        ask.field("x-wrong", "1");
    }
}

fn base64_md5(body: &[u8]) -> String {
    s3_orchestrator::proto::checksum::Digester::of(s3_orchestrator::proto::checksum::Algorithm::Md5, body).to_base64()
}

/// Mostly small, often the same, sometimes empty, sometimes too big to be replayed.
fn pick_size(world: &World) -> usize {
    match world.sim.below(100) {
        0..3 => 0,
        3..70 => 3_000,
        70..97 => 16 + world.sim.below(5_000) as usize,
        _ => 262_145 + world.sim.below(40_000) as usize,
    }
}

/// What a write's answer says.
pub fn told_of_write(world: &World, response: &Response, done: u16) -> Answer {
    match response.status {
        status if status == done && !response.cut => {
            count(&world.counts.acknowledged_writes);
            Answer::Done
        }
        412 => Answer::Precondition,
        404 => Answer::NoSuchKey,
        409 => {
            count(&world.counts.conflicts);
            Answer::Nothing
        }
        507 => {
            count(&world.counts.no_room);
            Answer::Nothing
        }
        400 => Answer::Nothing,
        _ => {
            count(&world.counts.unknown_writes);
            Answer::Unknown
        }
    }
}

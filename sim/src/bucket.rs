//! The simulated bucket, and each process's way to it.
//!
//! A request is on its own once it is sent: it arrives, is carried out and is answered whether or not its sender still
//! lives. What may befall it on the way is drawn from the [`Weather`].

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::channel::oneshot;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;

use crate::exec::{Exec, Process, Role, WORLD};
use crate::tally::{Fault, Tally};
use crate::watch::Watch;
use crate::weather::{Fate, Weather};

/// The objects, and what the sky above them is like. Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    state: Arc<Mutex<State>>,
    exec: Exec,
    tally: Tally,
}

struct State {
    objects: BTreeMap<String, Bytes>,
    weather: Weather,
    watch: Watch,
    /// Since when each process waits for a good answer under each key.
    waiting: BTreeMap<(Process, String), Duration>,
    /// How many answers have been cut short for it there.
    cut_short: BTreeMap<(Process, String), u32>,
}

/// What a request asks for.
enum Ask {
    Put(String, Bytes),
    Get(String, Option<Range<u64>>),
    List(String),
    Delete(String),
}

enum Answer {
    Put,
    Got(Bytes, Range<u64>, u64),
    Listed(Vec<(String, u64)>),
}

impl Ask {
    fn verb(&self) -> &'static str {
        match self {
            Self::Put(..) => "PUT",
            Self::Get(..) => "GET",
            Self::List(..) => "LIST",
            Self::Delete(..) => "DELETE",
        }
    }

    /// Key and range: a PUT that is in doubt is decided by a GET of the whole object.
    fn what(&self) -> String {
        match self {
            Self::Get(key, Some(range)) => format!("{key} {range:?}"),
            other => other.key().to_string(),
        }
    }

    fn key(&self) -> &str {
        match self {
            Self::Put(key, _) | Self::Get(key, _) | Self::List(key) | Self::Delete(key) => key,
        }
    }
}

impl State {
    /// Three bodies that end early are an error that the engine may tell of, whatever other answers came between them; two
    /// it must get over.
    fn not_always_short(&mut self, meets: Option<Fault>, asked: (Process, String)) -> Option<Fault> {
        if meets != Some(Fault::ShortBody) {
            return meets;
        }
        let before = self.cut_short.entry(asked).or_default();
        *before += 1;
        meets.filter(|_| *before <= 2)
    }
}

impl Bucket {
    /// An empty bucket under `weather`.
    pub fn new(exec: Exec, weather: Weather, tally: Tally) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            weather,
            watch: Watch::default(),
            waiting: BTreeMap::new(),
            cut_short: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), exec, tally }
    }

    /// The way of a process on `host` to the bucket.
    pub fn client(&self, host: usize, process: Process) -> Arc<Client> {
        Arc::new(Client { bucket: self.clone(), host, process })
    }

    /// Changes the weather.
    pub fn weather<T>(&self, change: impl FnOnce(&mut Weather) -> T) -> T {
        change(&mut self.state.lock().weather)
    }

    /// The keys and sizes of all objects.
    pub fn objects(&self) -> Vec<(String, usize)> {
        self.state.lock().objects.iter().map(|(k, b)| (k.clone(), b.len())).collect()
    }

    /// The bytes of an object.
    pub fn peek(&self, key: &str) -> Option<Bytes> {
        self.state.lock().objects.get(key).cloned()
    }

    /// Puts an object past everybody, or takes it away.
    pub fn tamper(&self, key: &str, bytes: Option<Bytes>) {
        let mut state = self.state.lock();
        match bytes {
            Some(bytes) => drop(state.objects.insert(key.into(), bytes)),
            None => drop(state.objects.remove(key)),
        }
    }

    /// What was sent that must never be, if anything was.
    pub fn breach(&self) -> Option<String> {
        self.state.lock().watch.breach()
    }

    /// Whether anybody waits for an answer under `key`: whose PUT has landed unanswered compares what it finds there.
    pub fn is_awaited(&self, key: &str) -> bool {
        self.state.lock().waiting.keys().any(|(_, awaited)| awaited == key)
    }

    /// Whether `process` has waited for a good answer to something for as long as `limit`.
    pub fn keeps_waiting(&self, process: Process, limit: Duration) -> bool {
        let now = self.exec.now();
        self.state.lock().waiting.iter().any(|((of, _), since)| *of == process && *since + limit <= now)
    }

    fn carry_out(&self, ask: &Ask) -> Result<Answer> {
        let mut state = self.state.lock();
        match ask {
            Ask::Put(key, body) => {
                if state.objects.contains_key(key) {
                    return Err(Error::AlreadyExists { path: key.clone(), source: "412 Precondition Failed".into() });
                }
                state.objects.insert(key.clone(), body.clone());
                Ok(Answer::Put)
            }
            Ask::Get(key, range) => {
                let missing = || Error::NotFound { path: key.clone(), source: "404 NoSuchKey".into() };
                let body = state.objects.get(key).ok_or_else(missing)?;
                let size = body.len() as u64;
                let range = range.clone().unwrap_or(0..size);
                if range.start >= size && size > 0 {
                    let source = format!("Wanted range starting at {}, object was only {size} bytes long", range.start);
                    return Err(Error::Generic { store: "sim", source: source.into() });
                }
                let range = range.start.min(size)..range.end.min(size);
                Ok(Answer::Got(body.slice(range.start as usize..range.end as usize), range, size))
            }
            Ask::List(prefix) => {
                let after = state.objects.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(prefix.as_str()));
                Ok(Answer::Listed(after.map(|(k, b)| (k.clone(), b.len() as u64)).collect()))
            }
            Ask::Delete(key) => {
                state.objects.remove(key);
                Ok(Answer::Put)
            }
        }
    }

    /// The way of one request, from the moment it is sent.
    async fn travel(
        self,
        (host, process): (usize, Process),
        ask: Ask,
        fate: Fate,
        reply: oneshot::Sender<Result<Answer>>,
    ) {
        self.exec.sleep(fate.there).await;
        let meets = self.state.lock().weather.on_arrival(host, &fate);
        let mut answer = match meets {
            Some(fault) => {
                self.tally.count(fault);
                match fault {
                    Fault::RequestLost => return self.hang(reply).await,
                    Fault::Conflict => {
                        Err(Error::AlreadyExists { path: ask.key().into(), source: "409 Conflict".into() })
                    }
                    Fault::Throttled => Err(generic("503 SlowDown: Please reduce your request rate.")),
                    _ => Err(generic("500 InternalError: We encountered an internal error. Please try again.")),
                }
            }
            None => self.carry_out(&ask),
        };
        let how = answer.as_ref().map_or_else(|e| brief(e), |_| "ok");
        self.exec.trace.say(self.exec.now(), format!("  store: {} {} for host {host}: {how}", ask.verb(), ask.key()));
        self.exec.sleep(fate.back).await;
        let meets = {
            let mut state = self.state.lock();
            let meets = state.weather.on_return(host, &fate);
            state.not_always_short(meets, (process, ask.what()))
        };
        let spoilt = matches!(meets, Some(Fault::ShortBody | Fault::FlippedBody));
        match meets {
            Some(Fault::ReplyLost) => {
                self.tally.count(Fault::ReplyLost);
                return self.hang(reply).await;
            }
            Some(fault @ Fault::ErrorAfter) if answer.is_ok() => {
                self.tally.count(fault);
                answer = Err(generic("500 InternalError: We encountered an internal error. Please try again."));
            }
            Some(fault @ (Fault::ShortBody | Fault::FlippedBody)) => {
                if let Ok(Answer::Got(bytes, ..)) = &mut answer
                    && !bytes.is_empty()
                {
                    self.tally.count(fault);
                    *bytes = spoil(bytes, fault, fate.luck);
                }
            }
            _ => {}
        }
        // What exists already, is in conflict or came spoilt is asked for once more before anybody knows.
        if !spoilt && matches!(answer, Ok(_) | Err(Error::NotFound { .. })) {
            self.state.lock().waiting.remove(&(process, ask.what()));
        }
        // Its sender may be gone.
        drop(reply.send(answer));
    }

    /// No answer ever comes: until the connection dies, which who sent it does not see either.
    async fn hang(&self, reply: oneshot::Sender<Result<Answer>>) {
        let mut reply = reply;
        reply.cancellation().await;
    }
}

fn spoil(bytes: &Bytes, fault: Fault, luck: u64) -> Bytes {
    let at = (luck % bytes.len() as u64) as usize;
    if fault == Fault::ShortBody {
        return bytes.slice(..at);
    }
    let mut spoilt = bytes.to_vec();
    spoilt[at] ^= 1 << ((luck >> 32) % 8);
    spoilt.into()
}

fn generic(text: &str) -> Error {
    Error::Generic { store: "sim", source: text.to_string().into() }
}

fn brief(e: &Error) -> &'static str {
    match e {
        Error::AlreadyExists { .. } => "exists or conflict",
        Error::NotFound { .. } => "not found",
        _ => "error",
    }
}

/// A process's way to the bucket.
pub struct Client {
    bucket: Bucket,
    host: usize,
    process: Process,
}

impl Client {
    async fn ask(&self, ask: Ask) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        let bucket = self.bucket.clone();
        let fate = {
            let mut state = bucket.state.lock();
            let now = bucket.exec.now();
            state.waiting.entry((self.process, ask.what())).or_insert(now);
            if let Ask::Put(key, body) = &ask {
                state.watch.sent(key, body);
                bucket.exec.trace.note_bytes(body);
            }
            state.weather.draw(ask.verb() == "PUT")
        };
        if fate.there > crate::weather::LATE {
            bucket.tally.count(Fault::Late);
        }
        let exec = bucket.exec.clone();
        exec.spawn(WORLD, Role::Other, bucket.travel((self.host, self.process), ask, fate, reply));
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(generic("connection reset by peer")),
        }
    }
}

#[async_trait]
impl ObjectStore for Client {
    async fn put_opts(&self, path: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        assert!(matches!(opts.mode, PutMode::Create), "every PUT is create-only");
        let body: Vec<u8> = payload.iter().flat_map(|chunk| chunk.iter().copied()).collect();
        self.ask(Ask::Put(path.to_string(), body.into())).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(generic("multipart uploads are not create-only"))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let wanted = match options.range {
            None => None,
            Some(GetRange::Bounded(range)) => Some(range),
            Some(other) => return Err(generic(&format!("a range that the engine never asks for: {other}"))),
        };
        match self.ask(Ask::Get(path.to_string(), wanted)).await? {
            Answer::Got(bytes, range, size) => Ok(GetResult {
                payload: GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed()),
                meta: meta(path.clone(), size),
                range,
                attributes: Attributes::new(),
                extensions: Default::default(),
            }),
            _ => Err(generic("an answer to something else")),
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let client = Client { bucket: self.bucket.clone(), host: self.host, process: self.process };
        let gone = move |path: Result<Path>| {
            let client = Client { bucket: client.bucket.clone(), host: client.host, process: client.process };
            async move {
                let path = path?;
                client.ask(Ask::Delete(path.to_string())).await?;
                Ok(path)
            }
        };
        locations.then(gone).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let client = Client { bucket: self.bucket.clone(), host: self.host, process: self.process };
        let prefix = prefix.map_or(String::new(), |p| format!("{p}/"));
        let listing = async move {
            match client.ask(Ask::List(prefix)).await {
                Ok(Answer::Listed(keys)) => keys.into_iter().map(|(k, size)| Ok(meta(Path::from(k), size))).collect(),
                Ok(_) => vec![Err(generic("an answer to something else"))],
                Err(e) => vec![Err(e)],
            }
        };
        stream::once(listing).flat_map(stream::iter).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(generic("the engine never lists with a delimiter"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(generic("the engine never copies"))
    }
}

fn meta(location: Path, size: u64) -> ObjectMeta {
    ObjectMeta { location, last_modified: Default::default(), size, e_tag: None, version: None }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the simulated bucket, from host {}", self.host)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

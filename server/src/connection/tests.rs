//! Connections over a socket whose kernel is a test, on a clock that only the test moves.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker, ready};

use millstream::Broker;
use millstream_protocol::control::{ErrorMessage, Hello, Magic, OpenPublisher};
use millstream_protocol::error::ErrorCode;
use millstream_protocol::frame::{PublisherFields, publish_header};
use millstream_protocol::limits::{FRAME_HEADER_BYTES, HEARTBEAT_MS, PRE_HELLO_MS, WIRE_VERSION};
use millstream_protocol::wire::{MessageKind, Next, Phase as Side, StreamId, WireHeader};
use millstream_protocol::{AckLevel, TopicName};
use tokio::runtime::Runtime;

use super::*;
use crate::limits::{CLOCK_TIME, INPUT_RUN_BYTES};
use crate::session::SessionOptions;

/// What the kernel of the fake socket has and does.
#[derive(Default)]
struct Kernel {
    /// What came from the peer. A shut socket reads nothing any more, unless it keeps operations.
    input: VecDeque<u8>,
    /// Whether the peer sends without end what is in `input`.
    endless: Vec<u8>,
    /// Whether operations under way stay so when the socket is shut down, as they may for a while.
    keeps: bool,
    /// Whether the peer takes what is written.
    takes: bool,
    /// Most bytes it takes at once, where that is bounded.
    takes_bytes: Option<usize>,
    shut: bool,
    /// Whether nothing more can be sent.
    half_shut: bool,
    written: Vec<u8>,
    reads: usize,
    wakers: Vec<Waker>,
}

#[derive(Clone, Default)]
struct Fake(Rc<RefCell<Kernel>>);

impl Fake {
    /// Changes what the kernel does, and has operations look again.
    fn change(&self, change: impl FnOnce(&mut Kernel)) {
        change(&mut self.0.borrow_mut());
        let wakers = std::mem::take(&mut self.0.borrow_mut().wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn say(&self, bytes: &[u8]) {
        self.change(|kernel| kernel.input.extend(bytes));
    }

    fn poll_read(&self, cx: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut kernel = self.0.borrow_mut();
        let endless = kernel.endless.clone();
        if kernel.input.is_empty() && !endless.is_empty() {
            kernel
                .input
                .extend(endless.iter().cycle().take(target.len()));
        }
        if kernel.input.is_empty() {
            if kernel.shut && !kernel.keeps {
                return Poll::Ready(Ok(0));
            }
            kernel.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        kernel.reads += 1;
        let count = target.len().min(kernel.input.len());
        for (byte, came) in target.iter_mut().zip(kernel.input.drain(..count)) {
            *byte = came;
        }
        Poll::Ready(Ok(count))
    }

    fn poll_write(&self, cx: &mut Context<'_>, batch: &OutputBatch) -> Poll<io::Result<usize>> {
        let mut kernel = self.0.borrow_mut();
        if kernel.shut && !kernel.keeps {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !kernel.takes {
            kernel.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        if kernel.half_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let before = kernel.written.len();
        for piece in batch.pieces() {
            kernel.written.extend_from_slice(piece.unsent());
        }
        if let Some(bytes) = kernel.takes_bytes {
            kernel.written.truncate(before + bytes);
        }
        Poll::Ready(Ok(kernel.written.len() - before))
    }

    /// The kinds of the messages written, and the codes of errors.
    fn said(&self) -> Vec<(MessageKind, Option<ErrorCode>)> {
        let kernel = self.0.borrow();
        let (mut rest, mut said) = (&kernel.written[..], Vec::new());
        let mut side = Side::ClientBeforeWelcome;
        while let Ok(Next::Message {
            header,
            body,
            consumed,
        }) = millstream_protocol::wire::next_message(rest, side)
        {
            side = Side::Client;
            let error = (header.kind == MessageKind::Error)
                .then(|| ErrorMessage::decode(body).unwrap().code);
            said.push((header.kind, error));
            rest = &rest[consumed..];
        }
        said
    }
}

impl Socket for Fake {
    fn adopt(_: socket2::Socket) -> io::Result<Self> {
        unreachable!("the fake is made, not accepted")
    }

    async fn read(
        &self,
        buffer: InputBuffer,
        want: Want,
        pools: &BufferPools,
    ) -> (io::Result<usize>, InputBuffer) {
        let mut buffer = pools.prepare(buffer, want).await;
        let count = poll_fn(|cx| {
            let count = ready!(self.poll_read(cx, buffer.free()));
            Poll::Ready(count)
        })
        .await;
        (count, buffer)
    }

    async fn write(&self, batch: OutputBatch) -> (io::Result<usize>, OutputBatch) {
        let count = poll_fn(|cx| self.poll_write(cx, &batch)).await;
        (count, batch)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match how {
            Shutdown::Both => self.change(|kernel| kernel.shut = true),
            Shutdown::Write => self.change(|kernel| kernel.half_shut = true),
            Shutdown::Read => {}
        }
        Ok(())
    }

    fn stand_back(cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

/// One connection, polled by hand.
struct Bench {
    _folder: tempfile::TempDir,
    _broker: Broker,
    runtime: Runtime,
    around: Rc<Surroundings>,
    socket: Fake,
    connection: Pin<Box<dyn Future<Output = ()>>>,
    over: bool,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::open(folder.path()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let (jobs, _thread) = JobQueue::start("mill-job-test".to_owned()).unwrap();
        let around = Rc::new(Surroundings {
            awake: None,
            pools: BufferPools::new(),
            roster: Rc::new(Roster::new()),
            jobs,
        });
        let socket = Fake::default();
        socket.change(|kernel| kernel.takes = true);
        let session = Session::new(broker.clone(), SessionOptions::new());
        let connection = Box::pin(serve(socket.clone(), session, Rc::clone(&around)));
        let mut bench = Self {
            _folder: folder,
            _broker: broker,
            runtime,
            around,
            socket,
            connection,
            over: false,
        };
        bench.poll();
        bench
    }

    fn greeted() -> Self {
        let mut bench = Self::new();
        bench.say(&hello());
        assert_eq!(bench.socket.said(), [(MessageKind::Welcome, None)]);
        bench
    }

    /// One go.
    fn poll(&mut self) {
        if self.over {
            return;
        }
        let connection = &mut self.connection;
        self.over = self.runtime.block_on(poll_fn(|cx| {
            Poll::Ready(connection.as_mut().poll(cx).is_ready())
        }));
    }

    /// One go; how often it had itself woken.
    fn poll_waking(&mut self) -> u32 {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let connection = &mut self.connection;
        self.runtime.block_on(poll_fn(|_| {
            let polled = connection.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
            Poll::Ready(())
        }));
        *woken.0.lock().unwrap()
    }

    fn written(&self) -> usize {
        self.socket.0.borrow().written.len()
    }

    /// With a stream open that publishes to a topic whose records need no sync, and has published once: the
    /// first waits for a segment.
    fn publishing() -> Self {
        let mut bench = Self::greeted();
        let open = OpenPublisher {
            topic: TopicName::parse("t").unwrap(),
            ack: AckLevel::Stored,
            create: true,
        };
        let mut bytes = Vec::new();
        open.encode(StreamId(1), 1, &mut bytes);
        bytes.extend(publish(1, 100));
        bench.socket.say(&bytes);
        while bench.socket.said().last() != Some(&(MessageKind::PublishAck, None)) {
            bench.poll();
            std::thread::yield_now();
        }
        bench
    }

    fn acks(&self) -> usize {
        let said = self.socket.said();
        let acks = said
            .iter()
            .filter(|(kind, _)| *kind == MessageKind::PublishAck);
        acks.count()
    }

    fn goes(&mut self, count: usize) {
        for _ in 0..count {
            self.poll();
        }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.socket.say(bytes);
        self.goes(2);
    }

    /// Lets time pass; the clock is looked at each second.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.runtime
                .block_on(tokio::time::advance(Duration::from_secs(1)));
            self.goes(2);
        }
    }

    fn ends_with(&self, code: ErrorCode) -> bool {
        self.socket.said().last() == Some(&(MessageKind::Error, Some(code)))
    }
}

fn hello() -> Vec<u8> {
    let hello = Hello {
        magic: Magic,
        version_min: WIRE_VERSION,
        version_max: WIRE_VERSION,
        features: 0,
        client: "test".to_owned(),
    };
    let mut bytes = Vec::new();
    hello.encode(StreamId::CONNECTION, 0, &mut bytes);
    bytes
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(Mutex<u32>);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        *self.0.lock().unwrap() += 1;
    }
}

fn publish(number: u64, len_bytes: usize) -> Vec<u8> {
    let body = vec![7; len_bytes];
    let frame_bytes = (FRAME_HEADER_BYTES + len_bytes) as u32;
    let mut bytes = WireHeader::publish(StreamId(1), number, frame_bytes)
        .encode()
        .to_vec();
    let fields = PublisherFields::single(len_bytes as u32);
    bytes.extend_from_slice(&publish_header(&fields, &body));
    bytes.extend_from_slice(&body);
    bytes
}

fn ping() -> [u8; 32] {
    WireHeader::bare(MessageKind::Ping, StreamId::CONNECTION, 1).encode()
}

#[test]
fn a_hello_byte_by_byte_is_out_of_time_after_five_seconds() {
    const SECONDS: u64 = PRE_HELLO_MS / 1000;
    let mut bench = Bench::new();
    for byte in &hello()[..SECONDS as usize - 1] {
        bench.say(&[*byte]);
        bench.pass(1);
        assert!(!bench.over && bench.socket.said().is_empty());
    }
    bench.say(&hello()[SECONDS as usize - 1..SECONDS as usize]);
    bench.pass(1);
    assert!(
        bench.ends_with(ErrorCode::HelloRequired),
        "{:?}",
        bench.socket.said()
    );
    // It lingers for a second, for the client to read why.
    bench.pass(2);
    assert!(bench.over);
}

#[test]
fn a_connection_half_open_is_over_after_three_heartbeats() {
    let mut bench = Bench::greeted();
    bench.pass(3 * HEARTBEAT_MS / 1000 + CLOCK_TIME.as_secs());
    let said = bench.socket.said();
    assert!(said.contains(&(MessageKind::Ping, None)), "{said:?}");
    assert!(bench.ends_with(ErrorCode::TimedOut), "{said:?}");
    bench.pass(2);
    assert!(bench.over);
}

#[test]
fn a_message_that_trickles_does_not_keep_its_connection() {
    let mut bench = Bench::greeted();
    let header = WireHeader {
        body_bytes: 60_000,
        ..WireHeader::bare(MessageKind::ListTopics, StreamId::CONNECTION, 1)
    };
    bench.say(&header.encode());
    for _ in 0..3 * HEARTBEAT_MS / 1000 + CLOCK_TIME.as_secs() + 1 {
        bench.say(&[0]);
        bench.pass(1);
    }
    assert!(
        bench.ends_with(ErrorCode::TimedOut),
        "{:?}",
        bench.socket.said()
    );
}

#[test]
fn a_peer_that_takes_nothing_is_cut_off_and_costs_a_bounded_amount_until_then() {
    let mut bench = Bench::greeted();
    bench.socket.change(|kernel| {
        kernel.takes = false;
        kernel.endless = ping().repeat(100);
    });
    bench.goes(1000);
    let reads = bench.socket.0.borrow().reads;
    assert!(reads * INPUT_RUN_BYTES < 4 << 20, "{reads} reads");
    bench.goes(1000);
    assert_eq!(
        bench.socket.0.borrow().reads,
        reads,
        "it is not read from any more"
    );
    bench.pass(WRITE_STALL_TIME.as_secs() - 1);
    assert!(!bench.over);
    bench.pass(2 * CLOCK_TIME.as_secs() + 1);
    assert!(bench.over);
}

#[test]
fn a_buffer_the_kernel_holds_comes_back_by_its_completion_alone() {
    let mut bench = Bench::greeted();
    let frames = |bench: &Bench| bench.around.pools.frames_left();
    let before = frames(&bench);
    let header = WireHeader::publish(StreamId(1), 1, 16 << 20);
    bench.socket.say(&header.encode());
    bench.goes(2);
    assert_eq!(
        frames(&bench),
        before - 1,
        "a large buffer is being read into"
    );
    bench.socket.change(|kernel| kernel.keeps = true);
    bench.around.roster.advance(Stage::Dropping);
    for _ in 0..10 {
        bench.pass(60);
    }
    assert!(
        bench.socket.0.borrow().shut && !bench.over,
        "the kernel has the buffer"
    );
    assert_eq!(frames(&bench), before - 1);
    bench.socket.change(|kernel| kernel.keeps = false);
    bench.poll();
    assert!(bench.over);
    assert_eq!(frames(&bench), before);
}

/// Whoever waits for the message that was just published is of the same thread, and goes first.
#[test]
fn an_answer_gives_way_once() {
    let mut bench = Bench::greeted();
    let before = bench.written();
    bench.socket.say(&ping());
    assert_eq!(bench.poll_waking(), 1, "it goes on");
    assert_eq!(bench.written(), before, "when others had their turn");
    bench.poll();
    assert_eq!(bench.written(), before + ping().len());
}

#[test]
fn a_message_that_woke_nobody_else_is_answered_in_its_go() {
    let mut bench = Bench::publishing();
    let before = bench.acks();
    bench.socket.say(&publish(2, 100));
    bench.poll_waking();
    assert_eq!(bench.acks(), before + 1);
    assert_eq!(bench.poll_waking(), 0, "there is nothing left to do");
}

#[test]
fn a_run_gives_way_to_what_may_follow_it() {
    let mut bench = Bench::publishing();
    let before = bench.acks();
    bench.socket.say(&publish(2, ALONE_BYTES_MAX));
    assert_eq!(bench.poll_waking(), 1);
    assert_eq!(bench.acks(), before);
    bench.poll();
    assert_eq!(bench.acks(), before + 1);
}

#[test]
fn a_connection_that_ends_sends_all_it_has_a_little_at_a_time() {
    let mut bench = Bench::greeted();
    bench.socket.change(|kernel| kernel.takes_bytes = Some(7));
    let before = bench.socket.said().len();
    let header = WireHeader {
        body_bytes: 1,
        ..WireHeader::bare(MessageKind::ListTopics, StreamId(9), 1)
    };
    bench.socket.say(&header.encode());
    bench.socket.say(&[0]);
    for _ in 0..50 {
        bench.poll();
    }
    assert!(
        matches!(bench.socket.said()[before..], [(MessageKind::Error, _)]),
        "{:?}",
        &bench.socket.said()[before..]
    );
}

#[test]
fn what_a_write_left_goes_on_when_answers_give_way() {
    let mut bench = Bench::greeted();
    let before = bench.written();
    bench.socket.change(|kernel| kernel.takes = false);
    bench.say(&ping());
    bench.socket.change(|kernel| {
        kernel.takes = true;
        kernel.takes_bytes = Some(7);
        kernel
            .input
            .extend(WireHeader::bare(MessageKind::Pong, StreamId::CONNECTION, 1).encode());
    });
    while bench.poll_waking() > 0 {}
    assert_eq!(bench.written(), before + ping().len());
}

#[test]
fn one_go_takes_a_bounded_number_of_bytes() {
    let mut bench = Bench::greeted();
    bench
        .socket
        .change(|kernel| kernel.endless = ping().repeat(100));
    // The first one finds small buffers.
    bench.goes(3);
    for _ in 0..10 {
        let (reads, written) = {
            let kernel = bench.socket.0.borrow();
            (kernel.reads, kernel.written.len())
        };
        bench.poll();
        let kernel = bench.socket.0.borrow();
        let read = (kernel.reads - reads) * INPUT_RUN_BYTES;
        let written = kernel.written.len() - written;
        assert!(read > 0 && written > 0, "it goes on");
        assert!(
            read + written <= GO_BYTES_MAX + 2 * INPUT_RUN_BYTES,
            "{read} and {written}"
        );
    }
}

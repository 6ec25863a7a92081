//! Connecting: a socket, and the greeting over it.

use std::io;
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::address::Address;
use crate::client::{ConnectOptions, millis};
use crate::core::{Core, Greeting};
use crate::error::{ConnectError, ConnectionError};

/// Room for input that is made at once.
pub(crate) const READ_BYTES: usize = 64 << 10;
/// Room below which more is made before a read.
pub(crate) const READ_BYTES_MIN: usize = 4 << 10;

/// A connection's socket, among what a runtime waits for.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A server that was greeted, and answered.
pub(crate) struct Greeted {
    pub(crate) core: Core,
    pub(crate) socket: Socket,
    /// What came behind its welcome.
    pub(crate) input: BytesMut,
}

/// Connects to `address` and greets the server, within the time of `options`.
pub(crate) async fn greet(
    address: &Address,
    options: &ConnectOptions,
) -> Result<Greeted, ConnectError> {
    let greeting = async {
        let connected = connect(address).await;
        let mut socket = connected.map_err(|error| unreachable(address, &error))?;
        let mut input = BytesMut::with_capacity(READ_BYTES);
        let greeted = match &mut socket {
            Socket::Tcp(socket) => exchange(socket, &mut input, &options.name).await,
            Socket::Unix(socket) => exchange(socket, &mut input, &options.name).await,
        };
        let core = greeted.map_err(|cause| ConnectError::Handshake {
            address: address.clone(),
            cause,
        })?;
        Ok(Greeted {
            core,
            socket,
            input,
        })
    };
    match timeout(options.timeout, greeting).await {
        Ok(greeted) => greeted,
        Err(_) => {
            let (address, ms) = (address.clone(), millis(options.timeout));
            Err(ConnectError::TimedOut { address, ms })
        }
    }
}

/// The error of a socket to `address`.
pub(crate) fn unreachable(address: &Address, error: &io::Error) -> ConnectError {
    ConnectError::Unreachable {
        address: address.clone(),
        kind: error.kind(),
        message: error.to_string().into(),
    }
}

async fn connect(address: &Address) -> io::Result<Socket> {
    Ok(match address {
        Address::Tcp { host, port } => {
            let socket = TcpStream::connect((host.as_str(), *port)).await?;
            socket.set_nodelay(true)?;
            Socket::Tcp(socket)
        }
        Address::Unix { path } => Socket::Unix(UnixStream::connect(path).await?),
    })
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut S,
    input: &mut BytesMut,
    name: &str,
) -> Result<Core, ConnectionError> {
    let greeting = Greeting::new(name);
    let io = |error: io::Error| ConnectionError::io(&error);
    socket.write_all(&greeting.hello()).await.map_err(io)?;
    socket.flush().await.map_err(io)?;
    loop {
        if let Some(core) = greeting.receive(Instant::now(), input)? {
            return Ok(core);
        }
        if socket.read_buf(input).await.map_err(io)? == 0 {
            return Err(ConnectionError::ClosedByServer { reason: "".into() });
        }
    }
}

/// The client's side of a connection to a server that welcomed it with such heartbeats.
#[cfg(test)]
pub(crate) fn welcomed(heartbeat_ms: u32) -> Core {
    let welcome = millstream_protocol::control::Welcome {
        version: millstream_protocol::limits::WIRE_VERSION,
        features: 0,
        server: String::new(),
        folder_id: [0; 16],
        boot_epoch: 1,
        frame_bytes_max: 1 << 20,
        publish_window_bytes: 1 << 20,
        publish_window_frames: 1,
        heartbeat_ms,
    };
    let mut bytes = Vec::new();
    let stream = millstream_protocol::wire::StreamId::CONNECTION;
    welcome.encode(stream, 0, &mut bytes);
    let core = Greeting::new("").receive(Instant::now(), &mut BytesMut::from(&bytes[..]));
    core.expect("it is as a server says it")
        .expect("all of it is there")
}

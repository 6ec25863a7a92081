//! Where a server listens, and taking hold of those places.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::limits::LISTEN_BACKLOG;

/// What stands before the path of a Unix socket.
const UNIX_PREFIX: &str = "unix:";
/// Pause between two attempts at an address in use.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A place to listen at.
///
/// ```
/// use millstream_server::Listen;
/// assert_eq!("127.0.0.1:7411".parse::<Listen>()?.to_string(), "127.0.0.1:7411");
/// assert_eq!("unix:/run/mill".parse::<Listen>()?, Listen::Unix("/run/mill".into()));
/// # Ok::<(), millstream_server::ListenError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

/// A text that names no place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenError {
    text: String,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is neither ADDRESS:PORT nor unix:PATH", self.text)
    }
}

impl std::error::Error for ListenError {}

impl FromStr for Listen {
    type Err = ListenError;

    /// Reads `ADDRESS:PORT`, `NAME:PORT` (its first address) or `unix:PATH`.
    fn from_str(text: &str) -> Result<Self, ListenError> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            return match path {
                "" => Err(ListenError {
                    text: text.to_owned(),
                }),
                _ => Ok(Self::Unix(path.into())),
            };
        }
        let address = text
            .to_socket_addrs()
            .ok()
            .and_then(|mut found| found.next());
        address.map(Self::Tcp).ok_or_else(|| ListenError {
            text: text.to_owned(),
        })
    }
}

/// A listening socket. A Unix socket's path is removed with it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Socket,
    place: Listen,
    path: Option<SocketPath>,
}

/// Removes a Unix socket's path when dropped.
#[derive(Debug)]
struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens at `place`, trying again for `patience` while somebody else does.
    pub(crate) fn bind(place: &Listen, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            let bound = match place {
                Listen::Tcp(address) => bind_tcp(*address),
                Listen::Unix(path) => bind_unix(path),
            };
            match bound {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline =>
                {
                    std::thread::sleep(RETRY_PAUSE);
                }
                Err(error) => return Err(error),
                Ok(socket) => {
                    let place = match socket.local_addr()?.as_socket() {
                        Some(address) => Listen::Tcp(address),
                        None => place.clone(),
                    };
                    let path = match &place {
                        Listen::Unix(path) => Some(SocketPath(path.clone())),
                        Listen::Tcp(_) => None,
                    };
                    return Ok(Self {
                        socket,
                        place,
                        path,
                    });
                }
            }
        }
    }

    /// Where it listens, with the port the system chose.
    pub(crate) const fn place(&self) -> &Listen {
        &self.place
    }

    /// The same, for the runtime of this thread.
    pub(crate) fn into_waiting(self) -> io::Result<WaitingListener> {
        let Self {
            socket,
            place,
            path,
        } = self;
        let socket = match place {
            Listen::Tcp(_) => Waiting::Tcp(TcpListener::from_std(socket.into())?),
            Listen::Unix(_) => Waiting::Unix(UnixListener::from_std(socket.into())?),
        };
        Ok(WaitingListener {
            socket,
            _path: path,
        })
    }
}

/// A listening socket whose connections can be waited for.
#[derive(Debug)]
pub(crate) struct WaitingListener {
    socket: Waiting,
    _path: Option<SocketPath>,
}

#[derive(Debug)]
enum Waiting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl WaitingListener {
    /// Takes one connection, with Nagle's delay off where there is one, and its peer's address
    /// where it has one.
    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Socket, Option<IpAddr>)>> {
        Poll::Ready(match &self.socket {
            Waiting::Tcp(listener) => {
                ready!(listener.poll_accept(cx)).and_then(|(socket, peer)| {
                    socket.set_nodelay(true)?;
                    Ok((socket.into_std()?.into(), Some(peer.ip())))
                })
            }
            Waiting::Unix(listener) => ready!(listener.poll_accept(cx))
                .and_then(|(socket, _)| Ok((socket.into_std()?.into(), None))),
        })
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    listen(socket, &address.into())
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    if is_abandoned(path, &address)? {
        fs::remove_file(path)?;
    }
    listen(socket, &address)
}

fn listen(socket: Socket, address: &SockAddr) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket)
}

/// Whether `path` is a socket that nobody listens at any more.
fn is_abandoned(path: &Path, address: &SockAddr) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            let caller = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            caller.set_nonblocking(true)?;
            let answer = caller.connect(address).map_err(|error| error.kind());
            Ok(answer == Err(io::ErrorKind::ConnectionRefused))
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for text in ["127.0.0.1:80", "[::1]:7411", "unix:/tmp/x.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for text in ["", "unix:", "127.0.0.1", "127.0.0.1:99999", "here"] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_port_in_use_is_refused() {
        let any = Listen::Tcp(([127, 0, 0, 1], 0).into());
        let first = Listener::bind(&any, Duration::ZERO).unwrap();
        let second = Listener::bind(first.place(), Duration::ZERO).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn an_abandoned_unix_socket_is_taken_over_and_a_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let place = Listen::Unix(path.clone());
        let first = Listener::bind(&place, Duration::ZERO).unwrap();
        let second = Listener::bind(&place, Duration::ZERO).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists(), "the path goes with the listener");

        std::fs::write(&path, b"precious").unwrap();
        assert!(Listener::bind(&place, Duration::ZERO).is_err());
        assert_eq!(
            std::fs::read(&path).unwrap(),
            b"precious",
            "a file is left alone"
        );
    }
}

//! Where a server listens: the address a client is given, checked once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::DEFAULT_PORT;

const TCP_SCHEME: &str = "millstream";
const UNIX_SCHEME: &str = "millstream+unix";

/// A server's address.
///
/// `millstream://host:port` is a TCP address; without a port it means
/// [`DEFAULT_PORT`]. The host is a name, an IPv4 address, or an IPv6 address
/// in brackets. `millstream+unix:///path` is a Unix socket at an absolute path, taken as written:
/// nothing in it is decoded.
///
/// ```
/// use millstream_client::Address;
///
/// let address: Address = "millstream://[::1]:7401".parse()?;
/// assert_eq!(address, Address::Tcp { host: "::1".to_owned(), port: 7401 });
/// assert_eq!("millstream://localhost".parse::<Address>()?.to_string(), "millstream://localhost:7878");
/// # Ok::<(), millstream_client::AddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP address.
    Tcp {
        /// A host name or an IP address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix {
        /// Its absolute path.
        path: PathBuf,
    },
}

impl Address {
    /// Takes `text` apart.
    ///
    /// # Errors
    ///
    /// Says what in `text` is no address, and what one looks like.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let fail = |what| AddressError {
            text: text.to_owned(),
            what,
        };
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fail(Fault::NoScheme))?;
        match scheme {
            TCP_SCHEME => parse_tcp(rest).map_err(fail),
            UNIX_SCHEME => parse_unix(rest).map_err(fail),
            _ => Err(fail(Fault::Scheme(scheme.to_owned()))),
        }
    }
}

fn parse_tcp(rest: &str) -> Result<Address, Fault> {
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if let Some(found) = authority.chars().find(|c| matches!(c, '/' | '?' | '#')) {
        return Err(Fault::AfterPort(found));
    }
    if authority.contains('@') {
        return Err(Fault::User);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, after) = bracketed.split_once(']').ok_or(Fault::Bracket)?;
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return Err(Fault::Bracket),
            };
            host.parse::<std::net::Ipv6Addr>()
                .map_err(|_| Fault::Bracket)?;
            (host, port)
        }
        None => match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => return Err(Fault::BareIpv6),
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err(Fault::NoHost);
    }
    if let Some(found) = host.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(Fault::HostCharacter(found));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return Err(Fault::Port(port.to_owned())),
        },
    };
    Ok(Address::Tcp {
        host: host.to_owned(),
        port,
    })
}

fn parse_unix(rest: &str) -> Result<Address, Fault> {
    let path = Path::new(rest);
    if !path.is_absolute() {
        return Err(Fault::RelativePath);
    }
    if rest.contains('\0') {
        return Err(Fault::HostCharacter('\0'));
    }
    Ok(Address::Unix {
        path: path.to_owned(),
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => {
                write!(f, "{TCP_SCHEME}://[{host}]:{port}")
            }
            Self::Tcp { host, port } => write!(f, "{TCP_SCHEME}://{host}:{port}"),
            Self::Unix { path } => write!(f, "{UNIX_SCHEME}://{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<&str> for Address {
    type Error = AddressError;

    fn try_from(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<&String> for Address {
    type Error = AddressError;

    fn try_from(text: &String) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        Self::parse(&text)
    }
}

/// Why a text is no address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    what: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    NoScheme,
    Scheme(String),
    NoHost,
    HostCharacter(char),
    Port(String),
    AfterPort(char),
    User,
    Bracket,
    BareIpv6,
    RelativePath,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no server address: ", self.text)?;
        match &self.what {
            Fault::NoScheme => f.write_str("it has no scheme"),
            Fault::Scheme(scheme) => write!(f, "the scheme {scheme:?} is unknown"),
            Fault::NoHost => f.write_str("it names no host"),
            Fault::HostCharacter(found) => write!(f, "it holds {found:?}"),
            Fault::Port(port) => write!(f, "{port:?} is no port from 1 to 65535"),
            Fault::AfterPort(found) => write!(f, "nothing may follow the port, but {found:?} does"),
            Fault::User => f.write_str("it names a user, which the protocol has no place for"),
            Fault::Bracket => f.write_str("what the brackets hold is no IPv6 address"),
            Fault::BareIpv6 => f.write_str("an IPv6 address stands in brackets"),
            Fault::RelativePath => f.write_str("the path of the socket is not absolute"),
        }?;
        write!(
            f,
            "; write {TCP_SCHEME}://HOST:PORT or {UNIX_SCHEME}:///PATH"
        )
    }
}

impl std::error::Error for AddressError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn addresses_are_taken_apart_and_written_alike() {
        for (text, address, written) in [
            ("millstream://a:1", tcp("a", 1), "millstream://a:1"),
            ("millstream://a:1/", tcp("a", 1), "millstream://a:1"),
            (
                "millstream://127.0.0.1",
                tcp("127.0.0.1", DEFAULT_PORT),
                "millstream://127.0.0.1:7878",
            ),
            (
                "millstream://[::1]:65535",
                tcp("::1", 65_535),
                "millstream://[::1]:65535",
            ),
            (
                "millstream://[::1]",
                tcp("::1", DEFAULT_PORT),
                "millstream://[::1]:7878",
            ),
            (
                "millstream+unix:///run/m s.sock",
                Address::Unix {
                    path: "/run/m s.sock".into(),
                },
                "millstream+unix:///run/m s.sock",
            ),
        ] {
            assert_eq!(Address::parse(text), Ok(address), "{text}");
            let parsed: Address = text.parse().unwrap();
            assert_eq!(parsed.to_string(), written);
            assert_eq!(Address::parse(written), Ok(parsed));
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (text, part) in [
            ("", "no scheme"),
            ("localhost:7878", "no scheme"),
            ("http://a", "scheme \"http\""),
            ("millstream://", "no host"),
            ("millstream://:7400", "no host"),
            ("millstream://a b", "' '"),
            ("millstream://a:", "\"\" is no port"),
            ("millstream://a:0", "\"0\" is no port"),
            ("millstream://a:+7", "\"+7\" is no port"),
            ("millstream://a:65536", "\"65536\" is no port"),
            ("millstream://a:1/topic", "'/'"),
            ("millstream://a:1?x=y", "'?'"),
            ("millstream://me@a:1", "names a user"),
            ("millstream://::1", "in brackets"),
            ("millstream://[::1:7400", "brackets hold"),
            ("millstream://[::1]7400", "brackets hold"),
            ("millstream://[a]:1", "brackets hold"),
            ("millstream+unix://run/x", "not absolute"),
            ("millstream+unix://", "not absolute"),
        ] {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(error.contains("write millstream://HOST:PORT"), "{error}");
        }
    }
}

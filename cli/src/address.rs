//! The address of a server, as given on the command line.

use millstream_client::Address;

/// Where `serve` listens and where the other commands look, unless told otherwise.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:7878";

/// Reads a server's address: as the client writes it, or as `serve --listen` takes it.
pub(crate) fn parse(text: &str) -> Result<Address, String> {
    let text = match text.strip_prefix("unix:") {
        Some(path) => match std::path::absolute(path) {
            Ok(path) => format!("millstream+unix://{}", path.display()),
            Err(_) => return Err("the path of the socket is empty".to_owned()),
        },
        None if text.contains("://") => text.to_owned(),
        None => format!("millstream://{text}"),
    };
    text.parse()
        .map_err(|error: millstream_client::AddressError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_mean_the_same() {
        for (short, long) in [
            ("localhost:1", "millstream://localhost:1"),
            ("[::1]:1", "millstream://[::1]:1"),
            ("millstream://a:1", "millstream://a:1"),
            ("unix:/run/m", "millstream+unix:///run/m"),
        ] {
            assert_eq!(parse(short).unwrap().to_string(), long);
        }
        for wrong in ["", "http://localhost", "millstream://", "unix:"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_default_is_the_port_clients_assume() {
        assert_eq!(parse(DEFAULT_LISTEN), parse("127.0.0.1"));
    }
}

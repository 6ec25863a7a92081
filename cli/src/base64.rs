//! Base64 of RFC 4648, to put bytes that are no text into JSON.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The base64 form of `bytes`, padded.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = (bits >> (18 - 6 * place)) as usize & 63;
            let figure = ALPHABET
                .get(digit)
                .copied()
                .filter(|_| place <= group.len());
            text.push(char::from(figure.unwrap_or(b'=')));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_rfc() {
        let rows = [
            "",
            "f=Zg==",
            "fo=Zm8=",
            "foo=Zm9v",
            "foob=Zm9vYg==",
            "fooba=Zm9vYmE=",
        ];
        for row in rows {
            let (plain, encoded) = row.split_once('=').unwrap_or_default();
            assert_eq!(encode(plain.as_bytes()), encoded);
        }
        assert_eq!(encode(&[0xff, 0xfe, 0xfd]), "//79");
    }
}

//! The chunked transfer coding (RFC 9112, section 7.1), parsed byte by byte.

/// Longest line before a chunk, with its size and extensions.
const LINE_BYTES_MAX: u16 = 16 * 1024;

/// A chunked body is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its chunks are malformed")]
pub(super) struct Malformed;

/// Position in a chunked body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Bytes left of this chunk; while its size is being read, the size so far.
    left: u64,
    /// Bytes read of the line before the chunk.
    line: u16,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Size,
    MoreSize,
    Blank,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    /// After the last chunk: trailers, and an empty line.
    Trailers,
}

impl Chunks {
    /// The next data in `input`, which is advanced behind the data; `None` if `input` has no more data. Bytes
    /// after the last chunk stay in `input`.
    ///
    /// # Errors
    /// The body is malformed. Whatever hyper's client accepts is accepted here.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
        while self.at != At::Trailers {
            if self.at == At::Data {
                let len = usize::try_from(self.left).unwrap_or(usize::MAX);
                let (data, rest) = input.split_at(len.min(input.len()));
                *input = rest;
                self.left -= data.len() as u64;
                if self.left == 0 {
                    self.at = At::DataReturn;
                }
                return Ok((!data.is_empty()).then_some(data));
            }
            let Some((byte, rest)) = input.split_first() else {
                break;
            };
            *input = rest;
            self.at = self.step(*byte)?;
        }
        Ok(None)
    }

    fn step(&mut self, byte: u8) -> Result<At, Malformed> {
        self.line = match self.at {
            At::DataReturn | At::DataFeed => 0,
            _ if self.line == LINE_BYTES_MAX => return Err(Malformed),
            _ => self.line + 1,
        };
        Ok(match (self.at, byte) {
            (At::Size | At::MoreSize, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                let size = self.left.checked_mul(16).ok_or(Malformed)?;
                self.left = size + u64::from(digit);
                At::MoreSize
            }
            (At::MoreSize | At::Blank, b' ' | b'\t') => At::Blank,
            (At::MoreSize | At::Blank, b';') => At::Extension,
            (At::MoreSize | At::Blank | At::Extension, b'\r') => At::SizeFeed,
            (At::Extension, byte) if byte != b'\n' => At::Extension,
            (At::SizeFeed, b'\n') if self.left == 0 => At::Trailers,
            (At::SizeFeed, b'\n') => At::Data,
            (At::DataReturn, b'\r') => At::DataFeed,
            (At::DataFeed, b'\n') => At::Size,
            _ => return Err(Malformed),
        })
    }

    /// Whether the last chunk has been read.
    pub(super) fn is_over(self) -> bool {
        self.at == At::Trailers
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data of a body that arrives in `pieces`, and the bytes after its last chunk.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<Vec<u8>>), Malformed> {
        let (mut chunks, mut data, mut behind) = (Chunks::default(), Vec::new(), Vec::new());
        for mut piece in pieces.iter().copied() {
            while let Some(bytes) = chunks.next(&mut piece)? {
                data.extend_from_slice(bytes);
            }
            behind.extend_from_slice(piece);
        }
        Ok((data, chunks.is_over().then_some(behind)))
    }

    #[test]
    fn sizes_may_have_what_hyper_takes() {
        let body = b"3\r\nabc\r\n00A ;x=\"y\"\r\n0123456789\r\n0\t\r\nx-sum: 1\r\n\r\n";
        let (data, behind) = read(&[body]).unwrap();
        assert_eq!(data, b"abc0123456789");
        assert_eq!(behind.unwrap(), b"x-sum: 1\r\n\r\n");
    }

    #[test]
    fn a_body_with_two_readings_has_none() {
        for body in [
            "\r\nabc",
            "x\r\n",
            "-3\r\nabc",
            "3\nabc\r\n",
            "3;a\nb\r\nabc\r\n",
            "3 4\r\nabc\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n0\r\n",
            "10000000000000003\r\n",
        ] {
            assert_eq!(read(&[body.as_bytes()]), Err(Malformed), "{body:?}");
        }
    }

    #[test]
    fn a_line_has_an_end() {
        let line = |len: usize| [&b"3;"[..], &vec![b'x'; len], b"\r\nabc\r\n"].concat();
        let longest = usize::from(LINE_BYTES_MAX) - 4;
        let body = [line(longest), line(longest)].concat();
        assert_eq!(read(&[&body]).unwrap().0, b"abcabc");
        assert_eq!(read(&[&line(longest + 1)]), Err(Malformed));
        assert_eq!(read(&[&vec![b'0'; 20_000]]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            is_whole in any::<bool>(),
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            if is_whole {
                body.extend_from_slice(b"0\r\n\r\n");
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect();
            let behind = is_whole.then(|| b"\r\n".to_vec());
            prop_assert_eq!(read(&pieces), Ok((chunks.concat(), behind)));
        }
    }
}

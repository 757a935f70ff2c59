//! The headers of a download that goes on: `Range` (RFC 9110 14.2), `Content-Range` (14.4), `Repr-Digest` (RFC 9530 3).

use base64::{Engine, engine::general_purpose::STANDARD};

/// What a Range header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it: no range, or one that this server does not serve. RFC 9110 14.2 allows to ignore the header.
    Whole,
    /// From the first byte up to the one before the second.
    Part(u64, u64),
    /// There is no such part: 416.
    Nothing,
}

/// Reads `bytes=5-`, `bytes=5-9` or `bytes=-5` for a file of `size` bytes.
pub fn asked(header: &str, size: u64) -> Asked {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().unwrap_or(u64::MAX)) // more digits than any file has bytes
    };
    let Some((first, last)) = header.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Whole;
    };
    match (first, number(first), last, number(last)) {
        (_, Some(first), "", _) if first < size => Asked::Part(first, size),
        (_, Some(first), "", _) if first >= size => Asked::Nothing,
        (_, Some(first), _, Some(last)) if first > last => Asked::Whole, // no valid range
        (_, Some(first), _, Some(last)) if first < size => Asked::Part(first, last.saturating_add(1).min(size)),
        (_, Some(_), _, Some(_)) => Asked::Nothing,
        ("", _, _, Some(0)) => Asked::Nothing,
        ("", _, _, Some(_)) if size == 0 => Asked::Nothing,
        ("", _, _, Some(length)) => Asked::Part(size.saturating_sub(length), size),
        _ => Asked::Whole,
    }
}

/// Reads `bytes 5-9/10`: from, up to (not included), of how many. Of `bytes */10` only the last is known.
pub fn told(header: &str) -> Option<(Option<(u64, u64)>, u64)> {
    let (part, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let size = size.parse().ok()?;
    if part == "*" {
        return Some((None, size));
    }
    let (first, last) = part.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < size).then_some((Some((first, last + 1)), size))
}

/// `sha-256=:...:`, the digest of the whole file, whatever part of it is sent.
pub fn digest_header(digest: &[u8; 32]) -> String {
    format!("sha-256=:{}:", STANDARD.encode(digest))
}

/// The digest in such a header, among others perhaps.
pub fn digest_in(header: &str) -> Option<[u8; 32]> {
    let told = header.split(',').find_map(|item| item.trim().strip_prefix("sha-256=:")?.strip_suffix(':'))?;
    STANDARD.decode(told).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_ways_to_ask_for_a_part_are_understood() {
        for (header, expected) in [
            ("bytes=0-", Asked::Part(0, 10)),
            ("bytes=5-", Asked::Part(5, 10)),
            ("bytes=5-5", Asked::Part(5, 6)),
            ("bytes=5-99999999999999999999999", Asked::Part(5, 10)),
            ("bytes=-4", Asked::Part(6, 10)),
            ("bytes=-40", Asked::Part(0, 10)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=10-12", Asked::Nothing),
            ("bytes=-0", Asked::Nothing),
            ("bytes=5-4", Asked::Whole),
            ("bytes=0-1,4-5", Asked::Whole),
            ("bytes=-", Asked::Whole),
            ("bytes=+1-", Asked::Whole),
            ("lines=1-2", Asked::Whole),
        ] {
            assert_eq!(asked(header, 10), expected, "{header}");
        }
        assert_eq!(asked("bytes=-1", 0), Asked::Nothing);
    }

    #[test]
    fn a_content_range_that_cannot_be_is_none() {
        assert_eq!(told("bytes 5-9/10"), Some((Some((5, 10)), 10)));
        assert_eq!(told("bytes */10"), Some((None, 10)));
        for header in ["bytes 5-10/10", "bytes 9-5/10", "bytes 5-9/*", "5-9/10", ""] {
            assert_eq!(told(header), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics_and_each_part_lies_within_the_file(header in ".{0,40}", size in any::<u64>()) {
            for header in [header.clone(), format!("bytes={header}")] {
                if let Asked::Part(from, to) = asked(&header, size) {
                    prop_assert!(from < to && to <= size);
                }
            }
            let _ = (told(&header), told(&format!("bytes {header}")), digest_in(&format!("sha-256=:{header}:")));
        }

        #[test]
        fn a_digest_survives_its_header(digest in any::<[u8; 32]>()) {
            prop_assert_eq!(digest_in(&format!("md5=:abc=:, {}", digest_header(&digest))), Some(digest));
        }
    }
}

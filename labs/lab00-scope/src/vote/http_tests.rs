//! What the parser does with requests, good ones and hostile ones.

use shared::SplitMix64;

use super::http::{Parsed, parse};

const VOTE: &str = "POST /vote HTTP/1.1\r\nHost: 127.0.0.1:8007\r\nOrigin: http://127.0.0.1:8007\r\n\
    Cookie: other=1; voter=000000000000000000000000000000ff\r\nContent-Length: 27\r\n\r\nquestion=1&round=2&answer=b";

fn status(text: &str) -> u16 {
    match parse(text.as_bytes()) {
        Parsed::Refused(status) => status,
        Parsed::Whole(..) => 200,
        Parsed::Part => 0,
    }
}

#[test]
fn a_vote_is_understood_once_it_is_whole() {
    for length in 0..VOTE.len() {
        assert_eq!(parse(&VOTE.as_bytes()[..length]), Parsed::Part, "{length}");
    }
    let Parsed::Whole(vote, length) = parse(format!("{VOTE}GET /").as_bytes()) else { panic!() };
    assert_eq!((length, vote.voter, vote.own, vote.keep), (VOTE.len(), Some(255), true, true));
    assert_eq!(
        ["question", "round", "answer", "name"].map(|name| vote.field(name)),
        [Some("1"), Some("2"), Some("b"), None]
    );
}

#[test]
fn another_page_cannot_speak_for_the_student() {
    let own = |from: &str, to: &str| match parse(VOTE.replace(from, to).as_bytes()) {
        Parsed::Whole(vote, _) => vote.own,
        refused => panic!("{refused:?}"),
    };
    assert!(own("Origin: http://127.0.0.1:8007\r\n", "") && own("Origin", "Sec-Fetch-Site: same-origin\r\nOrigin"));
    for foreign in ["Origin: null", "Origin: http://127.0.0.1:8008", "Origin: https://127.0.0.1:8007", "Origin: "] {
        assert!(!own("Origin: http://127.0.0.1:8007", foreign), "{foreign}");
    }
    assert!(!own("Origin", "Sec-Fetch-Site: same-site\r\nOrigin"));
    for (host, expected) in [
        ("192.168.1.5:8007", 200),
        ("localhost", 200),
        ("[::1]:8007", 200),
        ("evil.example:8007", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1:8007:1", 421),
        ("127.0.0.1@evil", 421),
        ("", 400),
    ] {
        assert_eq!(status(&VOTE.replace("Host: 127.0.0.1:8007", &format!("Host: {host}"))), expected, "{host}");
    }
}

#[test]
fn what_is_too_long_or_ambiguous_is_refused() {
    let line = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n";
    for (rest, expected) in [
        ("\r\n".into(), 200),
        ("Content-Length: 1025\r\n\r\n".into(), 413),
        ("Content-Length: 99999999999999999999999\r\n\r\n".into(), 413),
        ("Content-Length: -1\r\n\r\n".into(), 400),
        ("Content-Length: +1\r\n\r\n".into(), 400),
        ("Content-Length: 1\r\nContent-Length: 1\r\n\r\nx".into(), 400),
        ("Transfer-Encoding: chunked\r\n\r\n".into(), 411),
        ("Host: 127.0.0.1\r\n\r\n".into(), 400),
        (format!("X: {}\r\n\r\n", "x".repeat(9000)), 431),
        (format!("X: {}", "x".repeat(9000)), 431),
        (format!("{}\r\n", "X: x\r\n".repeat(65)), 431),
        ("no header\r\n\r\n".into(), 400),
    ] {
        assert_eq!(status(&format!("{line}{rest}")), expected, "{rest:.60}");
    }
    for (text, expected) in [
        ("DELETE / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/9.9\r\n\r\n", 400),
    ] {
        assert_eq!(status(text), expected, "{text:?}");
    }
    for cookie in ["voter=ff", "voter=+00000000000000000000000000000ff", "voter=", "Voter=0"] {
        let Parsed::Whole(request, _) = parse(format!("{line}Cookie: {cookie}\r\n\r\n").as_bytes()) else { panic!() };
        assert_eq!(request.voter, None, "{cookie}");
    }
}

#[test]
fn a_hundred_thousand_random_requests_are_answered_or_refused() {
    const PIECES: [&str; 24] = [
        "GET ",
        "POST ",
        "/",
        "/vote",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "Host: ",
        "127.0.0.1:8007",
        "localhost",
        "\r\n",
        "\r\n\r\n",
        "Content-Length: ",
        "27",
        "0",
        "1024",
        "99999999999999999999",
        "Cookie: voter=",
        "000000000000000000000000000000ff",
        "Origin: http://127.0.0.1:8007",
        "question=1&round=1&answer=b",
        "Transfer-Encoding: chunked",
        "%",
        "\u{0}\u{7f}",
        "\u{fffd}\n",
    ];
    let mut random = SplitMix64::new(19);
    let mut kinds = [0; 3];
    for at in 0..100_000 {
        let mut bytes: Vec<u8> = match at % 3 {
            0 => (0..random.draw() % 200).map(|_| random.draw() as u8).collect(),
            1 => (0..random.draw() % 30).flat_map(|_| PIECES[random.draw() as usize % 24].bytes()).collect(),
            _ => VOTE.into(), // and then some of its bytes changed
        };
        for _ in 0..if at % 3 == 2 { random.draw() % 4 } else { 0 } {
            let place = random.draw() as usize % bytes.len();
            bytes[place] = random.draw() as u8;
        }
        match parse(&bytes) {
            Parsed::Part => kinds[0] += 1,
            Parsed::Whole(_, length) => {
                assert!(length <= bytes.len());
                kinds[1] += 1;
            }
            Parsed::Refused(status) => {
                assert!((400..500).contains(&status), "{status}");
                kinds[2] += 1;
            }
        }
    }
    assert!(kinds.iter().all(|count| *count > 1000), "each way was tried: {kinds:?}");
}

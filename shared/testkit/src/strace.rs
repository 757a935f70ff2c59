//! Holds every call a demo prints against what strace saw.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    process::Command,
};

use crate::{TempDir, have, run, skip_without};

/// A call as printed: `recv(5, 1024) = 0`, or folded: `recv(4, 1024) x83 = 84001 bytes`, `connect(6) x9 = -1 EAGAIN`.
#[derive(Debug)]
struct Printed {
    name: String,
    args: Vec<String>,
    times: usize,
    result: String,
}

impl Printed {
    fn fails(&self) -> bool {
        self.result.starts_with("-1 ")
    }
}

/// A call as strace shows it.
#[derive(Debug)]
struct Seen {
    name: String,
    args: String,
    result: String,
}

/// Plays the demo under strace: each printed call must have been made by the demo's own process, with these arguments
/// and this result, in the printed order.
///
/// # Panics
/// A printed call was not made, or strace cannot run.
pub fn assert_printed_calls_are_real(binary: &str) {
    assert_calls_are_real(binary, None);
}

/// As [`assert_printed_calls_are_real`], for a demo that also shows what its hidden role `role` prints of its own calls.
///
/// # Panics
/// As there.
pub fn assert_printed_calls_are_real_with(binary: &str, role: &str) {
    assert_calls_are_real(binary, Some(role));
}

fn assert_calls_are_real(binary: &str, role: Option<&str>) {
    if skip_without(!have("strace"), "strace", "apt-get install strace") {
        return;
    }
    let folder = TempDir::new();
    let log = folder.path().join("strace");
    let demo = run(Command::new("strace")
        .args(["-f", "-s", "64", "-e", "trace=network,close,dup,fcntl,read,write,lseek,execve", "-o"])
        .arg(&log)
        .args([binary, "demo"]));
    assert_eq!(demo.code(), 0, "{}{}", demo.stdout, demo.stderr);

    let printed: Vec<Printed> = demo.stdout.lines().filter_map(printed_call).collect();
    assert!(printed.len() >= 5, "only {} calls printed:\n{}", printed.len(), demo.stdout);
    let mut seen = seen_calls(&fs::read_to_string(&log).unwrap(), role).into_iter();
    for call in printed {
        let mut total = 0;
        for _ in 0..call.times {
            let found = seen.find(|seen| is(&call, seen));
            let Some(found) = found else { panic!("strace did not see this, or not in this order: {call:?}") };
            total += found.result.parse::<usize>().unwrap_or(0);
        }
        let counts = call.times == 1 || call.fails() || call.result == total.to_string();
        assert!(counts, "{call:?}: strace counts {total} bytes");
    }
}

/// Finds `name(args) = result` in a line of output.
fn printed_call(line: &str) -> Option<Printed> {
    let open = line.find('(')?;
    let close = line.find(") = ").or_else(|| line.find(") x"))?;
    let args = line.get(open + 1..close)?;
    let is_name = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_';
    let name = line[..open].rsplit(|character| !is_name(character)).next().filter(|name| !name.is_empty())?;
    let after = &line[close + 2..];
    let (times, result) = match after.strip_prefix("= ") {
        Some(result) => (1, result),
        None => {
            let (times, result) = after.strip_prefix('x')?.split_once(" = ")?;
            (times.parse().ok()?, result)
        }
    };
    let mut words = result.split_whitespace();
    let first = words.next()?;
    let result = if first == "-1" { format!("-1 {}", words.next()?) } else { first.into() };
    Some(Printed { name: name.into(), args: args.split(", ").map(String::from).collect(), times, result })
}

fn is(printed: &Printed, seen: &Seen) -> bool {
    let name = match printed.name.as_str() {
        "accept" => "accept4",
        "recv" => "recvfrom",
        "send" => "sendto",
        name => name,
    };
    let fits = |arg: &String| match arg.parse::<SocketAddr>() {
        Ok(addr) => {
            seen.args.contains(&format!("htons({})", addr.port())) && seen.args.contains(&format!("\"{}\"", addr.ip()))
        }
        Err(_) if arg.parse::<IpAddr>().is_ok() => seen.args.contains(&format!("\"{arg}\"")),
        // strace has names for protocol 0; a flag may stand among others, SOCK_STREAM|SOCK_CLOEXEC; a field may end its
        // structure, iov_len=1024}].
        Err(_) => seen.args.split(", ").any(|part| {
            let zero = arg == "0" && ["IPPROTO_IP", "NETLINK_ROUTE"].contains(&part);
            let ends = part.trim_end_matches(['}', ']']) == arg;
            zero || ends || part == arg || part.split('|').any(|flag| flag == arg)
        }),
    };
    seen.name == name
        && seen.args.split(", ").next() == printed.args.first().map(String::as_str)
        && printed.args.iter().all(fits)
        && (seen.result == printed.result
            || printed.times > 1 && !printed.fails() && seen.result.parse::<usize>().is_ok())
}

/// The calls of the first process, and of those that run with the argument `role`, in the order in which they returned.
fn seen_calls(log: &str, role: Option<&str>) -> Vec<Seen> {
    let runs_role = |text: &str| role.is_some_and(|role| text.contains(&format!("\"{role}\"")));
    let mut shown = vec![log.split_whitespace().next().unwrap_or_default()];
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    let mut calls = Vec::new();
    for line in log.lines() {
        let Some((pid, text)) = line.split_once(' ').map(|(pid, text)| (pid, text.trim_start())) else { continue };
        if text.starts_with("execve(") && runs_role(text) {
            shown.push(pid);
        }
        if !shown.contains(&pid) {
            continue;
        }
        if let Some(start) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(pid, start);
            continue;
        }
        let resumed = text.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>"));
        let whole = match resumed {
            Some((_, end)) => format!("{}{end}", unfinished.remove(pid).unwrap_or_default()),
            None => text.to_string(),
        };
        calls.extend(seen_call(&whole));
    }
    calls
}

fn seen_call(text: &str) -> Option<Seen> {
    let (name, rest) = text.split_once('(')?;
    let (args, result) = rest.rsplit_once(" = ").filter(|(_, result)| !result.starts_with('?'))?;
    let mut words = result.split_whitespace();
    let first = words.next()?;
    let result = if first == "-1" { format!("-1 {}", words.next()?) } else { first.into() };
    let args = args.trim_end().strip_suffix(')').unwrap_or(args);
    Some(Seen { name: name.into(), args: args.into(), result })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"7 socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, IPPROTO_IP) = 3
7 bind(3, {sa_family=AF_INET, sin_port=htons(7777), sin_addr=inet_addr("127.0.0.1")}, 16) = -1 EADDRINUSE (Address already in use)
7 recvfrom(5,  <unfinished ...>
8 close(3) = 0
7 setsockopt(6, SOL_IP, IP_ADD_MEMBERSHIP, {imr_multiaddr=inet_addr("239.1.1.1"), imr_interface=inet_addr("127.0.0.1")}, 8) = 0
7 <... recvfrom resumed>"hello", 1024, 0, NULL, NULL) = 5
7 recvfrom(5, "", 1024, 0, NULL, NULL)   = 0
7 recvmsg(5, {msg_name=NULL, msg_namelen=0, msg_iov=[{iov_base="xx"..., iov_len=1024}], msg_iovlen=1, msg_controllen=0, msg_flags=MSG_TRUNC}, 0) = 1024
"#;

    fn seen(line: &str) -> bool {
        let call = printed_call(line).unwrap();
        seen_calls(LOG, None).iter().any(|seen| is(&call, seen))
    }

    #[test]
    fn a_printed_call_is_found_with_its_arguments_and_its_result() {
        assert!(seen("server    bind(3, 127.0.0.1:7777) = -1 EADDRINUSE (Address already in use)"));
        assert!(seen("server    recv(5, 1024) = 5"));
        assert!(seen("server    recv(5, 1024) = 0  end of stream"));
        assert!(seen("server    socket(AF_INET, SOCK_STREAM) = 3"));
        assert!(seen("server    recvmsg(5, iov_len=1024, msg_flags=MSG_TRUNC) = 1024"));
        assert!(seen("server    socket(AF_INET, SOCK_STREAM, 0) = 3"));
        assert!(seen("receiver  setsockopt(6, SOL_IP, IP_ADD_MEMBERSHIP, 239.1.1.1) = 0"));
    }

    #[test]
    fn a_wrong_number_address_result_or_process_is_noticed() {
        assert!(!seen("server    bind(3, 127.0.0.1:7778) = -1 EADDRINUSE"));
        assert!(!seen("server    bind(3, 127.0.0.1:7777) = 0"));
        assert!(!seen("server    recv(5, 1024) = 4"));
        assert!(!seen("server    recv(5, 512) = 5"));
        assert!(!seen("server    recv(4, 1024) = 5"));
        assert!(!seen("server    recvmsg(5, iov_len=512, msg_flags=MSG_TRUNC) = 1024"));
        assert!(!seen("receiver  setsockopt(6, SOL_IP, IP_ADD_MEMBERSHIP, 239.1.1.2) = 0"));
        assert!(!seen("server    close(3) = 0")); // another process did that
    }

    #[test]
    fn the_calls_of_a_hidden_role_count_where_the_demo_shows_them() {
        let log = "7 close(3) = 0\n8 execve(\"/bin/lab\", [\"/bin/lab\", \"on-hosts\"], 0x1) = 0\n8 close(4) = 0\n9 close(5) = 0\n";
        let closed = |role| seen_calls(log, role).iter().filter(|seen| seen.name == "close").count();
        assert_eq!((closed(None), closed(Some("on-hosts")), closed(Some("other"))), (1, 2, 1));
    }

    #[test]
    fn a_folded_call_has_a_count_and_a_sum() {
        let call = printed_call("reader    recv(4, 65536) x83 = 84001 bytes").unwrap();
        assert_eq!((call.times, call.result.as_str()), (83, "84001"));
        assert!(printed_call("ask       What does send() return = 0?").is_none());
        assert!(seen("server    bind(3, 127.0.0.1:7777) x2 = -1 EADDRINUSE"));
        assert!(!seen("server    bind(3, 127.0.0.1:7777) x2 = -1 EACCES"));
    }
}

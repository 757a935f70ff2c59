//! Both ends over a simulated link that loses, doubles and reorders, the same for the same seed. Time is simulated, too:
//! a thousand lossy minutes take a second.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use proptest::prelude::*;

use super::{
    ClientEnd, Event, Limits, Sessions, Timing,
    client_end::{Failure, Processed},
    wire::{Datagram, Refusal},
};
use shared::SplitMix64;

const SERVER: usize = usize::MAX;
/// After this the test itself has failed: nobody waits so long.
const END: Duration = Duration::from_secs(3600);
const TIMING: Timing = Timing { first: Duration::from_millis(200), most: Duration::from_secs(2), attempts: 8 };
const LIMITS: Limits =
    Limits { sessions: 100, message: 1 << 20, memory: 1 << 24, idle: Duration::from_secs(60), timing: TIMING };

/// What the link does to a datagram, in percent.
#[derive(Clone, Copy, Debug)]
struct Link {
    lose: u64,
    double: u64,
    /// The longest way, in milliseconds; the shortest is 1. So datagrams overtake each other.
    longest: u64,
}

/// What a client asks, and what happens to the ends.
struct Plan {
    link: Link,
    window: u32,
    requests: Vec<Vec<u8>>,
    /// The server loses its memory at these times, in milliseconds.
    restarts: Vec<u64>,
    /// From this time on nothing reaches a client, in milliseconds.
    deaf_from: Option<u64>,
    limits: Limits,
}

struct Outcome {
    results: Vec<Result<Vec<u8>, Failure>>,
    /// What the server took for whole requests, with the client's number.
    received: Vec<(usize, Vec<u8>)>,
    /// Sessions and bytes in the server's memory, an hour later.
    left: (usize, usize),
}

fn addr(client: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + client as u16))
}

/// The answer is the request backwards: long as it is, and another for each.
fn backwards(request: &[u8]) -> Vec<u8> {
    request.iter().rev().copied().collect()
}

fn server(limits: Limits, seed: u64) -> Sessions {
    let mut random = SplitMix64::new(seed);
    Sessions::new(limits, move || random.draw() as u32)
}

fn play(seed: u64, plan: &Plan) -> Outcome {
    let mut random = SplitMix64::new(seed);
    let mut sessions = server(plan.limits, seed ^ 1);
    let end = |(at, request): (usize, &Vec<u8>)| {
        ClientEnd::new(at as u32 + 1, request.clone(), plan.window, TIMING, 1 << 20, Duration::ZERO)
    };
    let mut clients: Vec<ClientEnd> = plan.requests.iter().enumerate().map(end).collect();
    let mut results: Vec<Option<Result<Vec<u8>, Failure>>> = clients.iter().map(|_| None).collect();
    let (mut received, mut restarts) = (Vec::new(), plan.restarts.clone());
    // On its way: when it arrives, a running number, from whom, to whom, what.
    let mut link: BTreeMap<(Duration, u64), (usize, usize, Vec<u8>)> = BTreeMap::new();
    let (mut now, mut running) = (Duration::ZERO, 0);
    loop {
        let mut out: Vec<(usize, usize, Vec<u8>)> = Vec::new();
        for (at, client) in clients.iter_mut().enumerate() {
            out.extend(client.due(now).into_iter().map(|bytes| (at, SERVER, bytes)));
            if results[at].is_none() {
                results[at] = client.result();
            }
        }
        let (due, _) = sessions.due(now);
        out.extend(due.into_iter().map(|(to, bytes)| (SERVER, usize::from(to.port()) - 1000, bytes)));
        for (from, to, bytes) in out {
            let copies = match random.draw() % 100 {
                fate if fate < plan.link.lose => 0,
                fate if fate < plan.link.lose + plan.link.double => 2,
                _ => 1,
            };
            for _ in 0..copies {
                running += 1;
                let way = Duration::from_millis(1 + random.draw() % plan.link.longest);
                link.insert((now + way, running), (from, to, bytes.clone()));
            }
        }
        let (count, bytes) = sessions.held();
        assert!(count <= plan.limits.sessions && bytes <= plan.limits.memory, "{count} sessions, {bytes} bytes");
        // The next thing that happens.
        let arrival = link.first_key_value().map(|((at, _), _)| *at);
        let restart = restarts.first().map(|at| Duration::from_millis(*at));
        let deadlines = clients.iter().filter_map(ClientEnd::deadline).chain(sessions.deadline());
        let Some(next) = deadlines.chain(arrival).chain(restart).min() else { break };
        now = next.max(now);
        assert!(now < END, "still at it after an hour");
        if restart.is_some_and(|at| at <= now) {
            restarts.remove(0);
            sessions = server(plan.limits, seed ^ now.as_micros() as u64);
        }
        while let Some(entry) = link.first_entry().filter(|entry| entry.key().0 <= now) {
            let (from, to, bytes) = entry.remove();
            let deaf = plan.deaf_from.is_some_and(|at| now >= Duration::from_millis(at));
            if to != SERVER && deaf {
                continue; // lost
            }
            if to != SERVER {
                clients[to].hear(&bytes, now);
            } else if let Some(Event::Whole { session, client, request, .. }) = sessions.hear(addr(from), &bytes, now) {
                sessions.answer(session, backwards(&request));
                received.push((usize::from(client.port()) - 1000, request));
            }
        }
    }
    let results = results.into_iter().map(|result| result.expect("every client ends")).collect();
    Outcome { results, received, left: sessions.held() }
}

/// Every message once and whole, or a clear failure that does not lie about it.
fn check(plan: &Plan, outcome: &Outcome) -> Result<(), TestCaseError> {
    let mut times: HashMap<usize, usize> = HashMap::new();
    for (client, request) in &outcome.received {
        prop_assert!(*request == plan.requests[*client], "client {client}: another message");
        *times.entry(*client).or_default() += 1;
    }
    for (client, result) in outcome.results.iter().enumerate() {
        let times = times.get(&client).copied().unwrap_or(0);
        match result {
            Ok(answer) => {
                prop_assert_eq!(times, 1, "client {}", client);
                prop_assert!(*answer == backwards(&plan.requests[client]), "client {client}: another answer");
            }
            Err(Failure::Silence(_, processed) | Failure::Refused(_, processed) | Failure::TooLong(_, processed)) => {
                let allowed = match processed {
                    Processed::No => 0..=0,
                    Processed::Perhaps => 0..=1,
                    Processed::Yes => 1..=1,
                };
                prop_assert!(allowed.contains(&times), "client {client}: {result:?}, {times} times");
            }
        }
    }
    prop_assert_eq!(outcome.left, (0, 0), "the server still holds something");
    Ok(())
}

fn messages(seed: u64, count: usize, longest: usize) -> Vec<Vec<u8>> {
    let mut random = SplitMix64::new(seed);
    let message = |random: &mut SplitMix64| {
        let length = random.draw() as usize % longest;
        (0..length).map(|_| random.draw() as u8).collect()
    };
    (0..count).map(|_| message(&mut random)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_any_link_each_message_comes_once_and_whole_or_fails_clearly(
        seed in any::<u64>(), lose in 0..60u64, double in 0..40u64, longest in 1..700u64, window in 1..70u32,
        clients in 1..6usize, longest_message in 1..30_000usize,
    ) {
        let link = Link { lose, double, longest };
        let requests = messages(seed, clients, longest_message);
        let plan = Plan { link, window, requests, restarts: vec![], deaf_from: None, limits: LIMITS };
        check(&plan, &play(seed, &plan))?;
    }

    #[test]
    fn a_server_that_forgets_everything_is_noticed_and_no_message_comes_twice(
        seed in any::<u64>(), lose in 0..30u64, window in 1..20u32, at in 0..2000u64,
    ) {
        let link = Link { lose, double: 10, longest: 40 };
        let plan = Plan { link, window, requests: messages(seed, 3, 30_000), restarts: vec![at, at + 500], deaf_from: None, limits: LIMITS };
        check(&plan, &play(seed, &plan))?;
    }

    #[test]
    fn a_client_that_hears_no_more_never_says_what_it_cannot_know(
        seed in any::<u64>(), lose in 0..30u64, window in 1..20u32, at in 0..300u64,
    ) {
        let link = Link { lose, double: 10, longest: 40 };
        let requests = messages(seed, 3, 10_000);
        let plan = Plan { link, window, requests, restarts: vec![], deaf_from: Some(at), limits: LIMITS };
        check(&plan, &play(seed, &plan))?;
    }

    #[test]
    fn a_server_with_little_room_refuses_and_never_holds_more(
        seed in any::<u64>(), lose in 0..20u64, window in 1..20u32, memory in 0..60_000usize, sessions in 1..5usize,
    ) {
        let link = Link { lose, double: 10, longest: 40 };
        let limits = Limits { memory, sessions, message: 20_000, ..LIMITS };
        let plan = Plan { link, window, requests: messages(seed, 6, 30_000), restarts: vec![], deaf_from: None, limits };
        check(&plan, &play(seed, &plan))?;
    }

    #[test]
    fn any_datagrams_from_anybody_hurt_no_session_of_somebody_else(
        noise in prop::collection::vec((0..7u8, 0..8u32, 0..8u32, 0..8u32, any::<bool>(), 0..3usize), 0..300),
    ) {
        // Numbers are small, so that strangers hit the session's number 5 and its blocks all the time.
        let mut sessions = Sessions::new(Limits { sessions: 4, ..LIMITS }, { let mut drawn = 4; move || { drawn += 1; drawn } });
        sessions.hear(addr(9), &Datagram::Open { token: 1, window: 1 }.bytes(), Duration::ZERO);
        for (kind, one, two, three, last, from) in noise {
            let datagram = match kind {
                0 => Datagram::Open { token: one, window: two },
                1 => Datagram::Session { token: one, session: two },
                2 | 3 => Datagram::Block { session: one, number: two, last, bytes: b"evil" },
                4 => Datagram::Confirm { session: one, number: two, next: three },
                5 => Datagram::End { session: one },
                _ => Datagram::Refused { id: one, why: Refusal::Unknown },
            };
            if let Some(Event::Whole { session, client, request, .. }) = sessions.hear(addr(from), &datagram.bytes(), Duration::ZERO) {
                prop_assert!(client == addr(from) && session != 5);
                sessions.answer(session, request);
            }
            sessions.due(Duration::ZERO);
        }
        let last = Datagram::Block { session: 5, number: 1, last: true, bytes: b"mine" }.bytes();
        let heard = sessions.hear(addr(9), &last, Duration::ZERO);
        let expected = Event::Whole { session: 5, client: addr(9), request: b"mine".to_vec(), again: 0 };
        prop_assert_eq!(heard, Some(expected));
    }
}

#[test]
fn over_a_link_with_a_tenth_lost_every_message_arrives() {
    for seed in 0..200 {
        let link = Link { lose: 10, double: 10, longest: 50 };
        let plan = Plan {
            link,
            window: 4,
            requests: messages(seed, 4, 20_000),
            restarts: vec![],
            deaf_from: None,
            limits: LIMITS,
        };
        let outcome = play(seed, &plan);
        check(&plan, &outcome).unwrap();
        assert!(outcome.results.iter().all(Result::is_ok), "seed {seed}");
    }
}

#[test]
fn over_a_dead_link_the_client_says_so() {
    let link = Link { lose: 100, double: 0, longest: 1 };
    let plan =
        Plan { link, window: 1, requests: vec![b"hello".to_vec()], restarts: vec![], deaf_from: None, limits: LIMITS };
    assert_eq!(play(1, &plan).results, [Err(Failure::Silence(8, Processed::No))]);
}

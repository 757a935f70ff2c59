//! What there is to know of each state, and the diagram.

use kernel::State::{self, *};

/// One state: how to get there, how long it lasts, what many of them mean.
pub struct Facts {
    pub state: State,
    /// The call or segment that leads here.
    pub caused_by: &'static str,
    /// Which end is in it.
    pub end: &'static str,
    /// As ss and netstat write it.
    pub ss: &'static str,
    pub netstat: &'static str,
    /// How long it lasts with a descriptor.
    pub held: &'static str,
    /// How long it lasts once no descriptor is left.
    pub orphaned: &'static str,
    /// What many of them mean on a server.
    pub pile: &'static str,
    /// The states this end goes through from CLOSED.
    pub path: &'static [State],
}

/// In the order of the tour.
pub const STATES: [Facts; 11] = [
    Facts {
        state: Listen,
        caused_by: "listen",
        end: "server",
        ss: "LISTEN",
        netstat: "LISTEN",
        held: "until close",
        orphaned: "never: close ends it",
        pile: "one for each address served; connections pile up in its Recv-Q",
        path: &[Closed, Listen],
    },
    Facts {
        state: SynSent,
        caused_by: "connect, and nobody answers the SYN",
        end: "client",
        ss: "SYN-SENT",
        netstat: "SYN_SENT",
        held: "until the tries of tcp_syn_retries are over, about two minutes",
        orphaned: "never: close ends it",
        pile: "a firewall that drops, a host that is down, a full queue",
        path: &[Closed, SynSent],
    },
    Facts {
        state: SynReceived,
        caused_by: "a SYN; with TCP_DEFER_ACCEPT an ACK without data does not end it",
        end: "server",
        ss: "SYN-RECV",
        netstat: "SYN_RECV",
        held: "until the ACK (here: the data) comes, or tcp_synack_retries are over",
        orphaned: "always: no descriptor before accept; it ends with the listener",
        pile: "a SYN flood, or answers that do not reach the clients",
        path: &[Closed, Listen, SynReceived],
    },
    Facts {
        state: Established,
        caused_by: "the handshake; accept only fetches the connection",
        end: "client",
        ss: "ESTAB",
        netstat: "ESTABLISHED",
        held: "until an end closes; without SO_KEEPALIVE there is no limit",
        orphaned: "never: close goes on to FIN-WAIT-1",
        pile: "many clients, or peers that are gone and no SO_KEEPALIVE",
        path: &[Closed, SynSent, Established],
    },
    Facts {
        state: FinWait1,
        caused_by: "shutdown or close; the FIN is not acknowledged yet",
        end: "client",
        ss: "FIN-WAIT-1",
        netstat: "FIN_WAIT1",
        held: "until the peer acknowledges; tcp_retries2 if it is gone",
        orphaned: "minutes, as tcp_orphan_retries says",
        pile: "peers that do not read, or are gone without a word",
        path: &[Closed, SynSent, Established, FinWait1],
    },
    Facts {
        state: FinWait2,
        caused_by: "shutdown, and the ACK of the FIN",
        end: "client",
        ss: "FIN-WAIT-2",
        netstat: "FIN_WAIT2",
        held: "until the peer closes; without SO_KEEPALIVE there is no limit",
        orphaned: "tcp_fin_timeout, 60 s",
        pile: "peers that do not close: look for their CLOSE-WAIT",
        path: &[Closed, SynSent, Established, FinWait1, FinWait2],
    },
    Facts {
        state: CloseWait,
        caused_by: "the peer's FIN",
        end: "server",
        ss: "CLOSE-WAIT",
        netstat: "CLOSE_WAIT",
        held: "until this program closes; only a reset or SO_KEEPALIVE helps",
        orphaned: "never: close goes on to LAST-ACK",
        pile: "a leak: this program forgets to close",
        path: &[Closed, Listen, SynReceived, Established, CloseWait],
    },
    Facts {
        state: Closing,
        caused_by: "shutdown, then the peer's FIN before the ACK of ours",
        end: "client",
        ss: "CLOSING",
        netstat: "CLOSING",
        held: "until the peer acknowledges; tcp_retries2 if it is gone",
        orphaned: "minutes, as tcp_orphan_retries says",
        pile: "rare: both ends close at once and ACKs are lost",
        path: &[Closed, SynSent, Established, FinWait1, Closing],
    },
    Facts {
        state: LastAck,
        caused_by: "the peer's FIN, then shutdown or close here",
        end: "server",
        ss: "LAST-ACK",
        netstat: "LAST_ACK",
        held: "until the peer acknowledges; tcp_retries2 if it is gone",
        orphaned: "minutes, as tcp_orphan_retries says",
        pile: "peers that do not read, or are gone without a word",
        path: &[Closed, Listen, SynReceived, Established, CloseWait, LastAck],
    },
    Facts {
        state: TimeWait,
        caused_by: "both FINs are acknowledged, ours went first",
        end: "client",
        ss: "TIME-WAIT",
        netstat: "TIME_WAIT",
        held: "never: a descriptor that is still open says CLOSED",
        orphaned: "always: 60 s",
        pile: "ordinary: many short connections, and this end closes first",
        path: &[Closed, SynSent, Established, FinWait1, FinWait2, TimeWait],
    },
    Facts {
        state: Closed,
        caused_by: "socket; later the end of every connection",
        end: "client",
        ss: "not listed",
        netstat: "not listed",
        held: "until close; only TCP_INFO shows it",
        orphaned: "never: close frees it",
        pile: "descriptors without a connection: ls /proc/PID/fd",
        path: &[Closed],
    },
];

/// What the table says of a state.
pub fn facts(state: State) -> &'static Facts {
    let place = STATES.iter().position(|facts| facts.state == state);
    &STATES[place.unwrap_or_default()] // a test holds that each state is there
}

/// The state with this name, in any of the three spellings.
pub fn named(name: &str) -> Result<State, String> {
    let plain = |name: &str| name.to_uppercase().replace(['-', '_'], "");
    let is = |facts: &&Facts| {
        [facts.state.to_string().as_str(), facts.ss, facts.netstat].iter().any(|known| plain(known) == plain(name))
    };
    STATES.iter().find(is).map(|facts| facts.state).ok_or_else(|| {
        let names: Vec<_> = STATES.iter().map(|facts| facts.state.to_string().to_lowercase()).collect();
        format!("the states are {}", names.join(", "))
    })
}

/// RFC 9293 Figure 5, without the rarer ways: simultaneous open, reset. Each `@` name gets its number in the tour.
const DIAGRAM: &str = "
                        @CLOSED
            listen |                      | connect: SYN
                   v                      v
              @LISTEN               @SYN-SENT
      SYN: SYN+ACK |                      | SYN+ACK: ACK
                   v                      v
           @SYN-RECEIVED -- ACK --> @ESTABLISHED
                                          |
            shutdown or close: FIN        |         FIN: ACK
                  +-----------------------+-----------+
                  v                                   v
             @FIN-WAIT-1                       @CLOSE-WAIT
         ACK |         | FIN: ACK                     | shutdown or close: FIN
             v         v                              v
   @FIN-WAIT-2   @CLOSING                      @LAST-ACK
    FIN: ACK |         | ACK                          | ACK
             v         v                              v
            @TIME-WAIT ------- 60 s ----------> CLOSED";

/// The diagram. Each state carries its place in `seen`, or `[  ]`; a state in `here` carries the letters of the ends that
/// are in it.
pub fn diagram(seen: &[State], here: &[(char, State)]) -> String {
    STATES.iter().fold(DIAGRAM.trim_start_matches('\n').to_string(), |diagram, facts| {
        let ends: String = here.iter().filter(|(_, state)| *state == facts.state).map(|(end, _)| end).collect();
        let mark = match seen.iter().position(|state| *state == facts.state) {
            _ if !ends.is_empty() => format!("[{ends:>2}]"),
            Some(place) => format!("[{:>2}]", place + 1),
            None => "[  ]".into(),
        };
        let from = format!("@{}", facts.state);
        // The name must end there: FIN-WAIT-1 is no part of another, CLOSING and CLOSED differ.
        diagram.replacen(&from, &format!("{mark} {}", facts.state), 1)
    })
}

/// The same as a line of text: CLOSED > SYN-SENT > ESTABLISHED.
pub fn linear(path: &[State]) -> String {
    path.iter().map(ToString::to_string).collect::<Vec<_>>().join(" > ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_the_eleven_states_is_in_the_table_once_and_its_path_ends_there() {
        for number in 1..=11 {
            let state = State::from_number(number).unwrap();
            assert_eq!(STATES.iter().filter(|facts| facts.state == state).count(), 1, "{state}");
            assert_eq!(facts(state).state, state);
            assert_eq!(facts(state).path.last(), Some(&state));
            for name in [state.to_string(), state.to_string().to_lowercase().replace('-', "_")] {
                assert_eq!(named(&name), Ok(state));
            }
        }
        assert_eq!(
            (named("estab"), named("FIN_WAIT2"), named("syn-recv")),
            (Ok(Established), Ok(FinWait2), Ok(SynReceived))
        );
        assert!(named("open").unwrap_err().contains("listen, syn-sent, "));
        assert!(named("").is_err());
    }

    #[test]
    fn every_line_fits_in_80_columns_and_is_plain() {
        for facts in &STATES {
            for text in [facts.caused_by, facts.held, facts.orphaned, facts.pile] {
                assert!(text.len() < 70 && text.is_ascii(), "{text}");
            }
            assert!(linear(facts.path).len() < 70);
        }
    }

    #[test]
    fn the_diagram_numbers_what_was_seen() {
        let all = STATES.map(|facts| facts.state);
        let drawn = diagram(&all, &[]);
        assert!(!drawn.contains('@') && !drawn.contains("[  ]"), "{drawn}");
        assert!(drawn.lines().all(|line| line.len() < 80), "{drawn}");
        assert!(drawn.contains("[ 1] LISTEN") && drawn.contains("[11] CLOSED"), "{drawn}");
        assert_eq!(diagram(&[], &[]).matches("[  ]").count(), 11);
        let drawn = diagram(&all, &[('C', FinWait1), ('S', CloseWait)]);
        assert!(drawn.contains("[ C] FIN-WAIT-1") && drawn.contains("[ S] CLOSE-WAIT"), "{drawn}");
        assert!(diagram(&[], &[('C', Established), ('S', Established)]).contains("[CS] ESTABLISHED"));
    }
}

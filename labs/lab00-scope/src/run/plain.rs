//! A line for each event.

use anyhow::Result;
use shared::Screen;

use super::model::{Cause, Event, Phase, Protocol, Sink, What};

/// Writes a line for each event.
pub struct Plain(Screen);

impl Plain {
    /// On standard output.
    pub fn new() -> Plain {
        Plain(Screen::new())
    }
}

impl Sink for Plain {
    fn event(&mut self, event: &Event) -> Result<()> {
        let at = event.at.as_secs_f64();
        let text = match &event.what {
            What::Started { process, parent, program } => match parent {
                Some(parent) => format!("started   {process} {program}, by {parent}"),
                None => format!("started   {process} {program}"),
            },
            What::Call(call) => {
                let phase = match call.phase {
                    Phase::Waits => "waits     ",
                    Phase::Ended => "call      ",
                    Phase::Returned => "returned  ",
                };
                format!("{phase}{} #{} {}", call.thread, call.number, call.text)
            }
            What::Segment(segment) => {
                let marks: Vec<String> = segment.marks.iter().map(|mark| format!("  {mark}")).collect();
                let fields = match &segment.protocol {
                    Protocol::Tcp(tcp) => format!("{} seq={} ack={} win={}", tcp.flags, tcp.seq, tcp.ack, tcp.window),
                    Protocol::Udp => "UDP".into(),
                    Protocol::Icmp(what) => format!("ICMP {what}"),
                    Protocol::Other(number) => format!("protocol {number}"),
                };
                let (from, to, length) = (segment.source, segment.destination, segment.payload);
                let cause = match segment.cause {
                    Cause::Call(number) => format!("#{number}"),
                    Cause::End(process) => format!("end of {process}"),
                    Cause::Timer => "a timer".into(),
                    Cause::Unknown => "not known".into(),
                };
                format!("segment   {from} > {to} {fields} len={length}{}  ({cause})", marks.concat())
            }
            What::State(change) => {
                let before = change.before.map_or("none".into(), |state| state.to_string());
                format!("state     {} > {} {before} -> {}", change.local, change.peer, change.state)
            }
            What::Output { process, error, line } => {
                format!("output    {process} {}{line}", if *error { "! " } else { "" })
            }
            What::Ended { process, how } => format!("ended     {process} {how}"),
            What::Lost { packets } => format!("lost      {packets} packets were not captured"),
            What::Note { process: Some(process), text } => format!("note      {process} {text}"),
            What::Note { process: None, text } => format!("note      {text}"),
        };
        self.0.line(format_args!("{at:8.3} {text}"));
        Ok(())
    }
}

//! The run as one JSON object a line, for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shared::At;

use super::model::{Call, Cause, Event, Protocol, Segment, Sink, Socket, What};

/// A file of lines that is written while the run goes on.
pub struct Json(BufWriter<File>);

impl Json {
    /// # Errors
    /// What open(2) says.
    pub fn create(path: &Path) -> Result<Json> {
        Ok(Json(BufWriter::new(File::create(path).at("open", path.display())?)))
    }
}

impl Sink for Json {
    fn event(&mut self, event: &Event) -> Result<()> {
        writeln!(self.0, "{}", object(event))?;
        self.0.flush().context("write the JSON file") // whoever looks meanwhile finds whole lines
    }
}

/// One event; `at` in seconds since the start.
pub fn object(event: &Event) -> Value {
    let mut object = match &event.what {
        What::Started { process, parent, program } => {
            json!({"event": "started", "process": process, "parent": parent, "program": program})
        }
        What::Call(call) => of_call(call),
        What::Segment(segment) => of_segment(segment),
        What::State(state) => json!({
            "event": "state", "local": state.local.to_string(), "peer": state.peer.to_string(),
            "state": state.state.to_string(), "before": state.before.map(|state| state.to_string()),
            "process": state.process,
        }),
        What::Output { process, error, line } => {
            json!({"event": "output", "process": process, "error": error, "line": line})
        }
        What::Ended { process, how } => json!({"event": "ended", "process": process, "how": how}),
        What::Lost { packets } => json!({"event": "lost", "packets": packets}),
        What::Note { process, text } => json!({"event": "note", "process": process, "text": text}),
    };
    object["at"] = json!(event.at.as_secs_f64());
    object
}

fn of_call(call: &Call) -> Value {
    let socket = |socket: &Option<Socket>| {
        socket.as_ref().map(|socket| {
            json!({
                "inode": socket.inode, "protocol": socket.protocol,
                "local": socket.local.map(|addr| addr.to_string()), "peer": socket.peer.map(|addr| addr.to_string()),
            })
        })
    };
    json!({
        "event": "call", "number": call.number, "process": call.process, "thread": call.thread, "text": call.text,
        "short": call.short, "name": call.name, "fd": call.fd, "result": call.result,
        "phase": format!("{:?}", call.phase).to_lowercase(), "took": call.took.as_secs_f64(),
        "socket": socket(&call.socket), "accepted": socket(&call.accepted),
    })
}

fn of_segment(segment: &Segment) -> Value {
    let mut object = json!({
        "event": "segment", "source": segment.source.to_string(), "destination": segment.destination.to_string(),
        "length": segment.payload, "marks": segment.marks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "time": segment.taken_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "cause": match segment.cause {
            Cause::Call(number) => json!({"call": number}),
            Cause::End(process) => json!({"end": process}),
            Cause::Timer => json!("timer"),
            Cause::Unknown => Value::Null,
        },
        "bytes": segment.bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    });
    match &segment.protocol {
        Protocol::Tcp(tcp) => {
            object["protocol"] = json!("TCP");
            object["flags"] = json!(format!("{:#}", tcp.flags));
            object["seq"] = json!(tcp.seq);
            object["ack"] = json!(tcp.flags.ack.then_some(tcp.ack));
            object["window"] = json!(tcp.window);
        }
        Protocol::Udp => object["protocol"] = json!("UDP"),
        Protocol::Icmp(text) => {
            object["protocol"] = json!("ICMP");
            object["text"] = json!(text);
        }
        Protocol::Other(number) => object["protocol"] = json!(number),
    }
    object
}

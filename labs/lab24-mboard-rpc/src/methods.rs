//! The board's methods, as in the lecture's class MessageBoard.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use board::{Board, Message, now};
use clap::ValueEnum;
use dxr::{Fault, Value};
use nix::{
    sys::signal::{Signal, kill},
    unistd::getpid,
};
use shared::{Screen, Stop};

use crate::{
    marshal::{INTERNAL, NOT_FOUND, text_value},
    service::{Method, Service, integer, text, wrong},
};

/// How ids travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ids {
    /// <int>, 32 bits: the only integer that the specification has
    Int,
    /// <i8>, 64 bits: an extension that not every client knows
    I8,
    /// <string>
    String,
}

/// When the server is killed in the middle of publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Die {
    /// The call has come, and nothing is done
    Before,
    /// It is done, and not answered
    After,
}

/// The author of a message whose caller told none.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
static METHODS: [Method; 3] = [
    Method {
        name: "publish",
        signatures: &[&["int", "string"], &["int", "string", "array"]],
        help: "puts a text on the board and returns its id; the second parameter is its author: [address, port]",
    },
    Method { name: "last", signatures: &[&["array"], &["array", "int"]], help: "the ids of the last n; 0: all" },
    Method {
        name: "get",
        signatures: &[&["array", "int"]],
        help: "the message with this id: time, address, port, text",
    },
];
static SLOW: Method = Method {
    name: "slow",
    signatures: &[&["boolean"]],
    help: "returns once Enter is pressed in the server's terminal",
};

/// The board behind its methods.
pub struct BoardService {
    board: Mutex<Board>,
    ids: Ids,
    die: Option<Die>,
    slow: bool,
}

impl BoardService {
    pub fn new(board: Board, ids: Ids, die: Option<Die>, slow: bool) -> BoardService {
        BoardService { board: Mutex::new(board), ids, die, slow }
    }

    /// How many messages there are.
    pub fn count(&self) -> usize {
        self.board().last(0).len()
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, params: &[Value]) -> Result<Value, Fault> {
        let text = match &params[0] {
            Value::String(text) => text.as_bytes(),
            Value::Base64(bytes) => bytes,
            _ => return Err(wrong("the message is no string".into())),
        };
        let author = params.get(1).map_or(Ok(NOBODY), author)?;
        self.die_if(Die::Before, "the call has come, nothing is published");
        let published = self.board().publish(author, now(), text);
        let id = published.map_err(|error| Fault::new(INTERNAL, format!("not published: {error:#}")))?;
        self.die_if(Die::After, "published and not answered");
        self.id_value(id)
    }

    /// kill -9, by itself.
    fn die_if(&self, moment: Die, told: &str) {
        if self.die == Some(moment) {
            Screen::new().line(format_args!("kill -9: {told}"));
            let _ = kill(getpid(), Signal::SIGKILL);
        }
    }

    fn id_value(&self, id: u64) -> Result<Value, Fault> {
        let too_large = |kind| Fault::new(INTERNAL, format!("the result cannot be marshalled: {id} exceeds {kind}"));
        match self.ids {
            Ids::Int => i32::try_from(id).map(Value::Integer).map_err(|_| too_large("<int>")),
            Ids::I8 => i64::try_from(id).map(Value::Long).map_err(|_| too_large("<i8>")),
            Ids::String => Ok(Value::String(id.to_string())),
        }
    }

    fn last(&self, params: &[Value]) -> Result<Value, Fault> {
        let count = if params.is_empty() { 0 } else { integer(params, 0)? };
        // The lecture's ids[n*-1:] takes the first two away where n is -2.
        let count = u64::try_from(count).map_err(|_| wrong("n is negative".into()))?;
        let ids: Vec<u64> = self.board().last(count).iter().map(|message| message.id).collect();
        ids.into_iter().map(|id| self.id_value(id)).collect::<Result<_, _>>().map(Value::Array)
    }

    fn get(&self, params: &[Value]) -> Result<Value, Fault> {
        let id = match self.ids {
            Ids::String => text(params, 0)?.parse().map_err(|_| wrong("the id is no number".into()))?,
            _ => u64::try_from(integer(params, 0)?).map_err(|_| wrong("the id is negative".into()))?,
        };
        let found = self.board().get(id).cloned();
        let Message { time, author, text, .. } =
            found.ok_or_else(|| Fault::new(NOT_FOUND, format!("no message {id}")))?;
        let (ip, port) =
            if author == NOBODY { (" ".into(), -1) } else { (author.ip().to_string(), i32::from(author.port())) };
        let values = [Value::Double(time.as_secs_f64()), Value::String(ip), Value::Integer(port), text_value(&text)];
        Ok(Value::Array(values.into()))
    }
}

impl Service for BoardService {
    fn methods(&self) -> Vec<&'static Method> {
        METHODS.iter().chain(self.slow.then_some(&SLOW)).collect()
    }

    fn run(&self, name: &str, params: &[Value], stop: &Stop) -> Result<Value, Fault> {
        match name {
            "publish" => self.publish(params),
            "last" => self.last(params),
            "get" => self.get(params),
            _ => {
                Screen::new().line("slow: waits for Enter");
                Ok(Value::Boolean(stop.wait_for_enter()))
            }
        }
    }
}

/// [address, port], as the caller says; (' ', -1) stands for nobody.
fn author(source: &Value) -> Result<SocketAddr, Fault> {
    let Value::Array(source) = source else { return Err(wrong("the author is no array".into())) };
    if source.len() != 2 {
        return Err(wrong("the author is not [address, port]".into()));
    }
    let (ip, port) = (text(source, 0)?, integer(source, 1)?);
    if ip.trim().is_empty() && port == -1 {
        return Ok(NOBODY);
    }
    let place = ip.parse::<IpAddr>().ok().zip(u16::try_from(port).ok());
    place.map(SocketAddr::from).ok_or_else(|| wrong("the author is not [address, port]".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{marshal::WRONG_PARAMETERS, service::dispatch};

    fn call(service: &BoardService, name: &str, params: &[Value]) -> Result<Value, i32> {
        let stop = Stop::on_signals().unwrap();
        dispatch(service, name, params, &stop).map_err(|fault| fault.code())
    }

    fn string(text: &str) -> Value {
        Value::String(text.into())
    }

    #[test]
    fn methods_do_what_the_lecture_says_and_faults_say_why_not() {
        let service = BoardService::new(Board::starting_at(0), Ids::Int, None, false);
        assert_eq!(call(&service, "publish", &[string("Hello")]), Ok(Value::Integer(0)));
        let source = Value::Array(vec![string("10.9.8.7"), Value::Integer(80)]);
        assert_eq!(call(&service, "publish", &[Value::Base64(vec![0, 255]), source]), Ok(Value::Integer(1)));
        let ids = |ids: &[i32]| Ok(Value::Array(ids.iter().copied().map(Value::Integer).collect()));
        assert_eq!(call(&service, "last", &[]), ids(&[0, 1]));
        assert_eq!(call(&service, "last", &[Value::Integer(1)]), ids(&[1]));
        let Ok(Value::Array(first)) = call(&service, "get", &[Value::Integer(0)]) else { panic!("no message") };
        assert_eq!(first[1..], [string(" "), Value::Integer(-1), string("Hello")]);
        let Ok(Value::Array(second)) = call(&service, "get", &[Value::Integer(1)]) else { panic!("no message") };
        assert_eq!(second[1..], [string("10.9.8.7"), Value::Integer(80), Value::Base64(vec![0, 255])]);
        for (name, params) in [
            ("last", vec![Value::Integer(-2)]),
            ("last", vec![string("2")]),
            ("get", vec![]),
            ("get", vec![Value::Integer(-1)]),
            ("publish", vec![Value::Integer(1)]),
            ("publish", vec![string("a"), string("10.9.8.7")]),
            ("publish", vec![string("a"), Value::Array(vec![string("elsewhere"), Value::Integer(80)])]),
            ("publish", vec![string("a"), Value::Array(vec![])]),
            ("system.methodHelp", vec![]),
        ] {
            assert_eq!(call(&service, name, &params), Err(WRONG_PARAMETERS), "{name} {params:?}");
        }
        assert_eq!(call(&service, "get", &[Value::Integer(7)]), Err(NOT_FOUND));
        for name in ["_MessageBoard__get_uuid", "slow", "publish.__class__", ""] {
            assert_eq!(call(&service, name, &[]), Err(crate::marshal::NO_SUCH_METHOD), "{name}");
        }
        assert_eq!(service.count(), 2);
    }

    #[test]
    fn an_id_beyond_32_bits_needs_another_type() {
        let published = |ids| {
            let service = BoardService::new(Board::default(), ids, None, false);
            let id = call(&service, "publish", &[string("Hello")]);
            assert_eq!(service.count(), 1);
            id.clone().map(|id| assert!(call(&service, "get", &[id]).is_ok())).ok();
            id
        };
        assert_eq!(published(Ids::Int), Err(INTERNAL));
        assert_eq!(published(Ids::I8), Ok(Value::Long(4_325_204_352)));
        assert_eq!(published(Ids::String), Ok(string("4325204352")));
    }
}

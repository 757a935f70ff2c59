//! What is true of the lecture's own library: python3 is the subject.

use std::{os::fd::AsRawFd, process::Command};

use anyhow::{Context, Result, bail, ensure};
use board::{Board, now};
use dxr::Value;
use kernel::{Pair, Patience, namespace::START_LIMIT};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv},
};
use shared::{At, Predicts, Role, Stage, Verdict};

use super::{CHUNK, LIMIT, accepted, listening, proxy, waits};
use crate::{
    http::Head,
    marshal::call_from_xml,
    proxy::Failure,
    service::{shown, text},
};

/// A stub that goes on asking is stopped here.
const MOST_CALLS: usize = 5;
/// One call, as the lecture's client makes it.
const CLIENT: &str = "
import sys, xmlrpc.client
proxy = xmlrpc.client.ServerProxy('http://127.0.0.1:' + sys.argv[1])
try:
    print('returns', proxy.publish('Give 100 euros'))
except Exception as e:
    print('raises', type(e).__name__)
";
/// Figure 5.4 in Python 3.
const SERVER: &str = "
from xmlrpc.server import SimpleXMLRPCServer
class MessageBoard:
    def __init__(self):
        self._m_board = {}
        self._m_uuid = 0
    def __get_uuid(self):
        uuid = self._m_uuid
        self._m_uuid += 1
        return uuid
    def publish(self, msg, source=(' ', -1)):
        uuid = self.__get_uuid()
        self._m_board[uuid] = (uuid, 0.0, source[0], source[1], msg)
        return uuid
    def get(self, m_id):
        return self._m_board[m_id][1:]
server = SimpleXMLRPCServer(('127.0.0.1', 0), logRequests=False)
server.register_introspection_functions()
server.register_instance(MessageBoard())
print('port', server.server_address[1], flush=True)
server.serve_forever()
";

fn python(program: &str, arguments: &[&str]) -> Result<Role> {
    let mut python = Command::new("python3");
    python.args(["-c", program]).args(arguments);
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        python.env_remove(proxy);
    }
    Role::spawn(&mut python)
}

pub fn asked_twice(stage: &mut Stage) -> Result<Verdict> {
    let (listen_sock, server_addr) = listening()?;
    let mut board = Board::starting_at(0);
    let question = stage.ask(
        "Python calls publish once. The server publishes, and closes without an answer. How often is it on the board?",
        [
            ("once, and the caller gets an error", 1),
            ("twice, and the caller gets an error", 2),
            ("again and again, until an answer comes", MOST_CALLS),
        ],
        Predicts { source: None, kit: 2 },
    )?;
    let mut client = python(CLIENT, &[&server_addr.port().to_string()])?;
    let (mut raised, mut patience) = (None, Patience::new(START_LIMIT));
    while raised.is_none() && board.last(0).len() < MOST_CALLS {
        if !waits(&listen_sock, LIMIT / 100)? {
            ensure!(!patience.is_over(), "not seen within {START_LIMIT:?}: what Python says");
            raised = client.printed().lines().find(|line| line.contains(' ')).map(String::from);
            continue;
        }
        let conn_sock = accepted(&listen_sock)?;
        let conn_fd = conn_sock.as_raw_fd();
        stage.server(format_args!("accept({}) = {conn_fd}", listen_sock.as_raw_fd()));
        let Pair { peer, .. } = Pair::of(&conn_sock)?;
        let (mut received, mut buffer) = (Vec::new(), vec![0; CHUNK]);
        let head = loop {
            match Head::parse(&received, CHUNK) {
                Some(head) if received.len() >= head.length + head.body => break head,
                _ => {}
            }
            ensure!(waits(&conn_sock, LIMIT)?, "not seen within {LIMIT:?}: a call");
            match recv(conn_fd, &mut buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                bytes_read => received.extend(&buffer[..bytes_read.at("recv", server_addr)?]),
            }
        };
        let (name, params) = call_from_xml(&received[head.length..])?;
        ensure!(name == "publish", "Python calls {name}");
        let id = board.publish(peer, now(), text(&params, 0)?.as_bytes())?;
        stage.server(format_args!("{name}({}) is done: message {id}", shown(&params)));
        drop(conn_sock); // close(2)
        stage.server(format_args!("close({conn_fd}) = 0"));
    }
    stage.say("python3", format_args!("publish {}", raised.unwrap_or_else(|| "still asks".into())));
    let observed = board.last(0).len();
    stage.say("board", format_args!("{observed} messages"));
    stage.verdict(
        question,
        observed,
        "this stub sends the call again on its own: such calls must bear being done twice",
    )
}

pub fn private_names(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Gets {
        NextId,
        Fault,
        NoAnswer,
    }
    let mut server = python(SERVER, &[])?;
    server.wait_for_within("port ", START_LIMIT)?;
    let port = server.wait_for("\n")?.parse().context("no port")?;
    let client = proxy(([127, 0, 0, 1], port).into());
    let id = client.call("publish", vec![Value::String("Hello world!".into())])?;
    stage.client(format_args!("publish(\"Hello world!\") returns {}", shown(&[id])));
    stage.say("python3", "publish calls self.__get_uuid(), which Python names _MessageBoard__get_uuid");
    let question = stage.ask(
        "The client calls _MessageBoard__get_uuid by that name. What does it get?",
        [
            ("the next id, 1: it is a method like others", Gets::NextId),
            ("a fault: the method is not supported", Gets::Fault),
            ("end of stream: the server drops the client", Gets::NoAnswer),
        ],
        Predicts { source: Some(Gets::NextId), kit: Gets::Fault },
    )?;
    let mut call = |name: &'static str, params: Vec<Value>| {
        let told = format!("{name}({})", shown(&params));
        let result = client.call(name, params);
        match &result {
            Ok(value) => stage.client(format_args!("{told} returns {}", shown(std::slice::from_ref(value)))),
            Err(failure) => stage.client(format_args!("{told}: {failure}")),
        }
        result
    };
    let observed = match call("_MessageBoard__get_uuid", vec![]) {
        Ok(_) => Gets::NextId,
        Err(Failure::Fault(_)) => Gets::Fault,
        Err(_) => Gets::NoAnswer,
    };
    let _ = call("no_such_method", vec![]);
    let _ = call("get", vec![Value::String("one".into())]);
    let Value::Array(names) = client.call("system.listMethods", vec![])? else { bail!("listMethods is no list") };
    let names: Vec<_> = names.iter().filter_map(|name| text(std::slice::from_ref(name), 0).ok()).collect();
    let own: Vec<_> = names.into_iter().filter(|name| !name.starts_with("system.")).collect();
    stage.client(format_args!("system.listMethods() names {}", own.join(", ")));
    stage.verdict(
        question,
        observed,
        "a name that begins with _ is not exported; what is wrong is a fault, and the server goes on",
    )
}

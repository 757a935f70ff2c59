//! Members that die, or seem to. Here each member is a process of its own.

use std::{collections::BTreeSet, fs::File, io::Read, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use kernel::wait_until;
use nix::sys::signal::{Signal, kill};
use shared::{At, Predicts, Role, Stage, Verdict};

use super::room::OwnGroup;

const NAMES: [&str; 4] = ["ann", "bob", "cid", "dan"];
/// Texts that each member says around the sequencer's death.
const TEXTS: usize = 10;
const LIMIT: Duration = Duration::from_secs(15);

/// Starts members and waits until each has everybody in its view.
pub fn members(stage: &mut Stage, group: &OwnGroup, names: &[&str], order: &str) -> Result<Vec<Role>> {
    let addr = group.addr.to_string();
    let mut members: Vec<Role> = Vec::new();
    for name in names {
        members.push(Role::start(&["member", name, &addr, "--order", order, "--heartbeat", "200"])?);
        if order == "total" && members.len() <= 2 {
            // The first one founds the group; the second one is the next in each view.
            let member = members.last_mut().context("no member")?;
            member.wait_for(&format!("* {name} is in the group\n"))?;
        }
    }
    for (name, member) in names.iter().zip(&mut members) {
        wait_until("a member of the group", LIMIT, || {
            let printed = member.printed();
            let here = names.iter().filter(|other| printed.contains(&format!("* {other} is here\n"))).count();
            let in_group = printed.contains(&format!("* {name} is in the group\n"));
            Ok((in_group && here == names.len() - 1).then_some(()))
        })?;
    }
    let pids: Vec<String> = names.iter().zip(&members).map(|(name, role)| format!("{name} {}", role.pid())).collect();
    stage.say("members", format_args!("{}: lab26-group member NAME {addr}", pids.join(", ")));
    Ok(members)
}

/// What the survivors' logs show.
#[derive(Debug, PartialEq)]
enum Fate {
    Whole,
    Lost,
    Doubled,
    Split,
}

pub fn sequencer_dies(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let mut members = members(stage, &group, &NAMES, "total")?;
    let mut first = String::new();
    for member in &mut members {
        first = wait_until("one view of all", LIMIT, || Ok(last_view(&member.printed(), NAMES.len())))?;
    }
    stage.say("view", format_args!("sequencer {first}, members {}", NAMES.len()));
    let at = NAMES.iter().position(|name| *name == first).context("the sequencer is no member")?;

    let question = stage.ask(
        "Each of the four says ten texts. In the middle of it the sequencer gets kill -9. What do the logs of the three \
         survivors show?",
        [
            ("one order; each of their texts once", Fate::Whole),
            ("one order; texts without a place are lost", Fate::Lost),
            ("one order; texts sent again are doubled", Fate::Doubled),
            ("each its own order: nobody decides any more", Fate::Split),
        ],
        Predicts { source: None, kit: Fate::Whole },
    )?;
    for number in 1..=TEXTS / 2 {
        for (name, member) in NAMES.iter().zip(&mut members) {
            member.type_line(&format!("{name}-{number}"))?;
        }
    }
    for member in &mut members {
        let all = || Ok((log(&member.printed()).len() == NAMES.len() * TEXTS / 2).then_some(()));
        wait_until("the first half of the texts", LIMIT, all)?;
    }
    stage.say("half", "each shows the first half; now the rest is typed");
    for number in TEXTS / 2 + 1..=TEXTS {
        for (name, member) in NAMES.iter().zip(&mut members) {
            member.type_line(&format!("{name}-{number}"))?;
        }
    }
    kill(members[at].pid(), Signal::SIGKILL).at("kill", members[at].pid())?;
    stage.say("kill", format_args!("kill({}, SIGKILL) to {first}, the sequencer", members[at].pid()));
    let mut survivors: Vec<(&str, Role)> = NAMES.into_iter().zip(members).filter(|(name, _)| *name != first).collect();
    let mut next = BTreeSet::new();
    for (_, member) in &mut survivors {
        next.insert(wait_until("the next view", LIMIT, || Ok(last_view(&member.printed(), NAMES.len() - 1)))?);
    }
    ensure!(next.len() == 1, "several sequencers: {next:?}");
    let next = next.pop_first().unwrap_or_default();
    stage.say("view", format_args!("sequencer {next}, members {}", NAMES.len() - 1));

    // Said last, so shown last in one order.
    for (name, member) in &mut survivors {
        member.type_line(&format!("{name}-end"))?;
    }
    let mut logs = Vec::new();
    for (name, member) in &mut survivors {
        let done = wait_until("the last texts", LIMIT, || {
            let log = log(&member.printed());
            let ends = log.iter().filter(|line| line.ends_with("-end")).count();
            Ok((ends == NAMES.len() - 1).then_some(log))
        })?;
        stage.say(name, format_args!("shows {} texts", done.len()));
        logs.push(done);
    }
    let theirs: Vec<String> = survivors
        .iter()
        .flat_map(|(name, _)| (1..=TEXTS).map(move |number| format!("{name}: {name}-{number}")))
        .collect();
    let count = |text: &String| logs[0].iter().filter(|line| *line == text).count();
    let distinct = logs[0].iter().collect::<BTreeSet<_>>().len();
    let fate = if logs.iter().any(|log| *log != logs[0]) {
        Fate::Split
    } else if distinct < logs[0].len() {
        Fate::Doubled
    } else if theirs.iter().any(|text| count(text) == 0) {
        Fate::Lost
    } else {
        Fate::Whole
    };
    let dead = logs[0].iter().filter(|line| line.starts_with(&format!("{first}: "))).count();
    stage.say(
        "logs",
        format_args!(
            "{} of the survivors' {} texts, each once;",
            theirs.iter().filter(|text| count(text) == 1).count(),
            theirs.len()
        ),
    );
    stage.say("", format_args!("{dead} of the dead one's texts, the same in each log"));
    stage.verdict(question, fate, "the logs are brought to one length, then the next member gives the places")
}

/// The sequencer of the last view, if it has so many members.
fn last_view(printed: &str, members: usize) -> Option<String> {
    let view = printed.lines().rev().find_map(|line| line.strip_prefix("* sequencer "))?;
    view.strip_suffix(&format!(", members {members}")).map(Into::into)
}

/// The texts that a member shows.
fn log(printed: &str) -> Vec<String> {
    let whole = &printed[..printed.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().filter(|line| line.contains(": ") && !line.starts_with('*')).map(Into::into).collect()
}

#[derive(Debug, PartialEq)]
enum Learns {
    FromTheKernel,
    FromItsSendto,
    FromSilence,
    Never,
}

pub fn kill_9(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let mut members = members(stage, &group, &NAMES[..3], "fifo")?;
    let before = users(group.addr.ip())?;
    let question = stage.ask(
        "cid gets kill -9; the kernel closes its sockets at once. Then ann says a text. How does ann learn that cid is \
         gone?",
        [
            ("the kernel tells the group at once", Learns::FromTheKernel),
            ("ann's next sendto returns ECONNREFUSED", Learns::FromItsSendto),
            ("only by silence: no heartbeat comes", Learns::FromSilence),
            ("never: a group has no list of members", Learns::Never),
        ],
        Predicts { source: None, kit: Learns::FromSilence },
    )?;
    let cid = members.remove(2);
    kill(cid.pid(), Signal::SIGKILL).at("kill", cid.pid())?;
    stage.say("kill", format_args!("kill({}, SIGKILL) to cid", cid.pid()));
    let after =
        wait_until("cid's membership to end", LIMIT, || Ok(users(group.addr.ip())?.filter(|users| *users == 2)))?;
    let before = before.map_or("?".into(), |users| users.to_string());
    stage.say("kernel", format_args!("/proc/net/igmp: users of the group {before} before, {after} now"));
    members[0].type_line("is anybody there?")?;
    members[0].wait_for("ann: is anybody there?\n")?;
    members[1].wait_for("ann: is anybody there?\n")?;
    let told_before = members[0].printed().contains("* cid is dead");
    stage.say("ann", "says a text: bob has it, and no call has failed");

    // Whoever counts to five first tells the other.
    let mut beats = 0;
    for member in &mut members {
        let line = member.line_with("* cid is dead")?;
        beats = beats.max(line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0));
    }
    stage.say("ann, bob", format_args!("cid is dead: silent for {beats} heartbeats"));
    let by_silence = beats >= 5;
    let observed = match (told_before, by_silence) {
        (true, _) => Learns::FromTheKernel,
        (false, true) => Learns::FromSilence,
        (false, false) => Learns::FromItsSendto,
    };
    stage.verdict(question, observed, "the kernel knows at once and tells nobody; five heartbeats are missing")
}

#[derive(Debug, PartialEq)]
enum Finds {
    Nothing,
    AnError,
    ItsDeath,
    ItsPlace,
}

pub fn stopped(stage: &mut Stage) -> Result<Verdict> {
    let group = OwnGroup::new()?;
    let mut members = members(stage, &group, &NAMES[..3], "fifo")?;
    let cid = members[2].pid();
    kill(cid, Signal::SIGSTOP).at("kill", cid)?;
    stage.say("kill", format_args!("kill({cid}, SIGSTOP) to cid"));
    members[0].line_with("* cid is dead")?;
    stage.say("ann", "* cid is dead");
    members[0].type_line("cid is dead, who takes over?")?;
    members[1].wait_for("ann: cid is dead, who takes over?\n")?;
    stage.say("ann", "says: cid is dead, who takes over?");

    let question = stage.ask(
        "Now cid gets SIGCONT. It was never dead, and the kernel has kept what arrived. What does cid find?",
        [
            ("nothing: to cid no time has passed", Finds::Nothing),
            ("its next recvfrom fails with ECONNRESET", Finds::AnError),
            ("its name among the dead in a heartbeat", Finds::ItsDeath),
            ("its old place: its heartbeats count again", Finds::ItsPlace),
        ],
        Predicts { source: None, kit: Finds::ItsDeath },
    )?;
    kill(cid, Signal::SIGCONT).at("kill", cid)?;
    stage.say("kill", format_args!("kill({cid}, SIGCONT) to cid"));
    let again = members[0].line_with("* cid is here")?;
    members[2].type_line("back")?;
    let before = members[2].wait_for("cid: back\n")?;
    let told = before.lines().find(|line| line.contains("declared me dead"));
    stage.say("cid", told.unwrap_or("says nothing of it"));
    stage.say("ann", again.trim());
    let observed = if told.is_some() { Finds::ItsDeath } else { Finds::ItsPlace };
    stage.verdict(question, observed, "dead is what the others say; it comes back as somebody new")
}

/// How many sockets have joined the group on lo, by /proc/net/igmp: the most of three looks, as in lab05.
fn users(group: &Ipv4Addr) -> Result<Option<u32>> {
    let mut most = None;
    for _ in 0..3 {
        let mut table = Vec::with_capacity(64 * 1024);
        let mut file = File::open("/proc/net/igmp").at("open", "/proc/net/igmp")?;
        file.read_to_end(&mut table).at("read", "/proc/net/igmp")?;
        most = most.max(users_in(&String::from_utf8_lossy(&table), group));
    }
    Ok(most)
}

fn users_in(table: &str, group: &Ipv4Addr) -> Option<u32> {
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()));
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next().and_then(number)? == *group).then(|| words.next()?.parse().ok())?
    })
}

//! One state, several threads; one state, many copies.

use std::{sync::Arc, sync::mpsc::channel, thread};

use anyhow::{Context, Result, anyhow, ensure};
use shared::{Predicts, Stage, Verdict};

use crate::{
    game::Game,
    rounds::{Count, play_many},
    shelf::Shelf,
    state::State,
};

const GAMES: u64 = 10_000;
/// After so many games the class sees how far it is.
const PART: usize = 2500;

pub fn lost_score(stage: &mut Stage) -> Result<Verdict> {
    let game = || {
        let mut game = Game::with_words(["letter"]).map_err(anyhow::Error::msg)?;
        for name in ["ann", "bob"] {
            game.join(name);
        }
        Ok::<_, anyhow::Error>(game)
    };
    let points = |game: &Game| ["ann", "bob"].map(|name| game.position.players.get(name).map_or(0, |p| p.points));
    stage.server("a thread for each player; the word is \"letter\"; the lock is held for each single step only");
    stage.say("steps", "copy the game, propose in the copy, put the copy back");

    let question = stage.ask(
        "Ann's thread copies the game, then Bob's does. Ann proposes \"e\", Bob \"t\". Ann's thread puts its copy back, then Bob's. How many points are there in the end?",
        [
            ("Ann 2, Bob 2", [2, 2]),
            ("Ann 2, Bob 0", [2, 0]),
            ("Ann 0, Bob 2", [0, 2]),
            ("Ann 0, Bob 0", [0, 0]),
        ],
        Predicts { source: None, kit: [0, 2] },
    )?;
    let shelf = Arc::new(Shelf::new(game()?));
    let mut players = Vec::new();
    for (name, letter) in [("ann", "e"), ("bob", "t")] {
        let (go, may_go) = channel::<()>();
        let (tell, told) = channel::<String>();
        let shelf = shelf.clone();
        // Each step waits for its turn: this schedule is rare on its own, and forced here.
        let steps = move || -> Option<()> {
            may_go.recv().ok()?;
            let mut copy = shelf.copy();
            tell.send(format!("copies the game: {}", copy.position)).ok()?;
            may_go.recv().ok()?;
            let events = copy.say(name, letter).unwrap_or_else(|why| vec![why]);
            tell.send(format!("proposes {letter} in the copy: {}", events.join("; "))).ok()?;
            may_go.recv().ok()?;
            let text = copy.position.to_string();
            shelf.put_back(copy);
            tell.send(format!("puts back: {text}")).ok()
        };
        let thread =
            thread::Builder::new().name(name.into()).spawn(steps).context("cannot start a thread: ulimit -u")?;
        players.push((name, go, told, thread));
    }
    for _ in ["copy", "propose", "put back"] {
        for (name, go, told, _) in &players {
            go.send(()).context("a thread has ended")?;
            stage.say(name, told.recv().context("a thread has ended")?);
        }
    }
    for (_, _, _, thread) in players {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?.context("a step was left out")?;
    }
    let end = shelf.copy();
    stage.say("game", &end.position);
    let observed = points(&end);

    let shelf = Arc::new(Shelf::new(game()?));
    let mut threads = Vec::new();
    for (name, letter) in [("ann", "e"), ("bob", "t")] {
        let shelf = shelf.clone();
        let work = move || shelf.change(|game| game.say(name, letter).is_ok());
        threads.push(thread::Builder::new().spawn(work).context("cannot start a thread: ulimit -u")?);
    }
    for thread in threads {
        ensure!(thread.join().map_err(|_| anyhow!("a thread panicked"))?, "a letter was refused");
    }
    let mended = points(&shelf.copy());
    stage.say("mended", format_args!("one lock from the copy to the end: Ann {}, Bob {}", mended[0], mended[1]));
    ensure!(mended == [2, 2], "with one lock around all steps the points are {mended:?}");
    stage.verdict(question, observed, "Bob's copy is older than Ann's letter: hold the lock from read to write")
}

pub fn ten_thousand(stage: &mut Stage) -> Result<Verdict> {
    #[derive(Debug, PartialEq)]
    enum Wrong {
        Scores,
        Screens,
        Nothing,
    }
    stage.say("games", format_args!("{GAMES}, each from a seed: up to four players propose at random,"));
    stage.say("", "lines are on their way for a random time, players join and leave in the middle");

    let question = stage.ask(
        "Players often propose a letter that is taken already, because their screens are late. What goes wrong in some of the games?",
        [
            ("some letter scores twice", Wrong::Scores),
            ("some screen ends up different", Wrong::Screens),
            ("no score and no screen is wrong", Wrong::Nothing),
        ],
        Predicts { source: None, kit: Wrong::Nothing },
    )?;
    let mut all = Count::default();
    for first in (1..=GAMES).step_by(PART) {
        let last = first + PART as u64 - 1;
        let part = play_many(first..=last).map_err(anyhow::Error::msg)?;
        let (letters, too_late) = (part.proposals, part.late);
        stage.say("games", format_args!("{first} to {last}: {letters} letters at the server, {too_late} too late"));
        all = all.and(part);
    }
    let Count { late, wrong_scores, wrong_screens, screens, .. } = all;
    stage.say("games", format_args!("{wrong_scores} letters have not scored exactly once"));
    stage.say("games", format_args!("{wrong_screens} of {screens} screens differ from the server's game at the end"));
    ensure!(late > 0 && screens > 0, "the games are too tame");
    let observed = match (wrong_scores, wrong_screens) {
        (0, 0) => Wrong::Nothing,
        (0, _) => Wrong::Screens,
        _ => Wrong::Scores,
    };
    stage.verdict(question, observed, "one server numbers all events, and every copy applies them in that order")
}

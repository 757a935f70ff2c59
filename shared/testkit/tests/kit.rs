//! What holds for the kit as a whole: its layout, its tables, and the bounds of the helper crate.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use testkit::{labs, root, run};

/// A file of the checkout.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn entries(folder: &str) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// The code of a source file: no blanks, no comments, nothing from `#[cfg(test)]` on.
fn code(source: &str) -> Vec<&str> {
    let lines = source.lines().take_while(|line| *line != "#[cfg(test)]").map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//")).collect()
}

#[test]
fn the_top_level_holds_what_the_owner_laid_down_and_nothing_else() {
    let allowed = ["Cargo.lock", "Cargo.toml", "NOTES.md", "README.md", "labs", "scripts", "shared", "target"];
    for entry in entries("") {
        let name = name(&entry);
        assert!(name.starts_with('.') || allowed.contains(&name.as_str()), "{name} does not belong at the top");
    }
}

/// All that a lab lacks, in words.
fn missing(lab: &str) -> Vec<String> {
    let short = lab.split('-').next().unwrap();
    let sheet_path = format!("labs/{lab}/README.md");
    let text = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_default();
    let (readme, notes, aliases, cargo) =
        (text("README.md"), text("NOTES.md"), text(".cargo/config.toml"), text(&format!("labs/{lab}/Cargo.toml")));
    let (sheet, main) = (text(&sheet_path), text(&format!("labs/{lab}/src/main.rs")));
    let mut missing = Vec::new();
    let mut want = |holds: bool, what: String| {
        if !holds {
            missing.push(what);
        }
    };

    let number = short.strip_prefix("lab").unwrap_or_default();
    let is_name = number.len() == 2 && number.bytes().all(|byte| byte.is_ascii_digit()) && lab.len() > short.len() + 1;
    want(is_name, format!("a name like lab28-word instead of {lab}"));
    let row = format!("| [{lab}]({sheet_path}) |");
    want(readme.contains(&row), format!("a row in the table of README.md: {row} question | minutes |"));
    let line = format!("- [{lab}]({sheet_path})");
    want(notes.contains(&format!("{line}\n")), format!("a line in the index of NOTES.md: {line}"));
    let alias = format!("{short} = \"run --quiet --bin {lab} --\"");
    want(aliases.contains(&alias), format!("an alias in .cargo/config.toml: {alias}"));
    want(cargo.contains(&format!("name = \"{lab}\"")), format!("the name \"{lab}\" in labs/{lab}/Cargo.toml"));
    want(!main.is_empty(), format!("the program labs/{lab}/src/main.rs"));
    want(main.starts_with("//! "), format!("a header in labs/{lab}/src/main.rs: the question, how to run it, sources"));
    let tests = format!("labs/{lab}/tests/{short}.rs");
    want(root().join(&tests).is_file(), format!("tests in {tests}"));

    want(!sheet.is_empty(), format!("a sheet in {sheet_path}"));
    want(sheet.starts_with(&format!("# {lab}\n")), format!("the first line of the sheet: # {lab}"));
    let parts = ["Question", "Predict", "Run", "Break it", "Change it", "Lecture check", "Check questions", "Next"];
    for part in parts.map(|part| format!("**{part}.**")) {
        want(sheet.contains(&part), format!("a part of the sheet: {part}"));
    }
    for folded in ["<summary>See", "<summary>Why", "<summary>1. ", "<summary>2. ", "<summary>3. "] {
        want(sheet.contains(folded), format!("a folded part of the sheet: {folded}"));
    }
    want(sheet.contains("minutes"), "the minutes, in the head of the sheet".into());
    want(!sheet.contains("git checkout labs`"), "the one file, after `git checkout` in the sheet".into());
    missing
}

#[test]
fn every_lab_has_its_sheet_its_tests_its_alias_and_its_place_in_the_tables() {
    let mut report = String::new();
    for lab in labs() {
        let missing = missing(&lab);
        if !missing.is_empty() {
            report += &format!("{lab} lacks\n  {}\n", missing.join("\n  "));
        }
    }
    assert!(report.is_empty(), "\n{report}scripts/new-lab.sh makes all of this for a new lab");
}

#[test]
fn what_a_lab_lacks_is_named_all_at_once() {
    let missing = missing("lab98-nobody");
    for what in ["README.md", "NOTES.md", ".cargo/config.toml", "Cargo.toml", "src/main.rs", "tests/lab98.rs", "sheet"]
    {
        assert!(missing.iter().any(|line| line.contains(what)), "{what}: {missing:?}");
    }
}

/// Cargo builds a crate anew for each set of its dependencies' features. While all members ask for the same ones, what
/// `cargo build --workspace` built serves each lab alone.
#[test]
fn no_crate_asks_for_features_of_its_own() {
    let labs = labs().into_iter().map(|lab| format!("labs/{lab}/Cargo.toml"));
    let crates = ["shared", "shared/board", "shared/board/journal", "shared/kernel", "shared/roles", "shared/testkit"]
        .map(|path| format!("{path}/Cargo.toml"));
    for path in labs.chain(crates) {
        let mut in_dependencies = false;
        for line in read(&path).lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') {
                let plain = line.ends_with(".workspace = true");
                assert!(plain, "{path}: versions and features stand in the workspace's Cargo.toml: {line}");
            }
        }
    }
}

#[test]
fn the_helper_crates_stay_small_and_touch_no_socket_of_a_lab() {
    let calls =
        [".bind(", ".connect(", ".listen(", ".accept(", ".send_to(", ".recv_from(", ".shutdown(", "setsockopt("];
    for folder in ["shared/src", "shared/board/src", "shared/kernel/src", "shared/lines/src", "shared/roles/src"] {
        let mut lines = 0;
        for path in entries(folder) {
            let source = fs::read_to_string(&path).unwrap();
            let code = code(&source);
            lines += code.len();
            for call in calls {
                assert!(!code.iter().any(|line| line.contains(call)), "{} calls {call}", path.display());
            }
        }
        println!("{folder} has {lines} lines of code");
        assert!(lines <= 700, "{folder} has {lines} lines of code");
    }
}

#[test]
fn every_script_has_a_manual_and_can_be_run() {
    use std::os::unix::fs::PermissionsExt;
    for path in entries("scripts").into_iter().filter(|path| name(path) != "lib.sh") {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{} is not executable", path.display());
        let help = run(Command::new(&path).arg("--help"));
        assert_eq!(help.code(), 0, "{help:?}");
        for part in ["Usage:", "Needs:", "How to read it"] {
            assert!(help.stdout.contains(part), "{} --help has no {part}", path.display());
        }
        assert_eq!(run(Command::new(&path).arg("--no-such-option")).code(), 2, "{}", path.display());
    }
}

//! The completion scripts of shells. clap makes them; what it cannot know is which instances run.

use clap::ValueEnum;
use clap_complete::Shell;

use super::grammar;

/// Prints the name of each instance that runs: the first word of its line in the table.
const NAMES: &str = r"hotswap status 2>/dev/null | sed -n 's/^\([^ :]*\): .*, pid [0-9]*$/\1/p'";
/// The commands whose first argument is an instance.
const COMMANDS: [&str; 7] = [
    "swap", "rollback", "status", "history", "stop", "events", "upgrade",
];

pub fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut grammar(), "hotswap", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => format!("{script}{}", for_bash()),
        Shell::Zsh => for_zsh(&script),
        Shell::Fish => for_fish(&script),
        _ => script,
    }
}

fn for_bash() -> String {
    format!(
        r#"
_hotswap_with_names() {{
    _hotswap "$@"
    case "${{COMP_WORDS[1]}} ${{2:-.}}" in
        *" -"*) ;;
        {} COMPREPLY+=($(compgen -W "$({NAMES})" -- "$2")) ;;
    esac
}}
complete -F _hotswap_with_names -o bashdefault -o default hotswap
"#,
        COMMANDS.map(|command| format!("{command}\\ *")).join("|") + ")"
    )
}

/// clap has the first word completed as that of the server, although it may be a command, and looks for the command in
/// the second.
fn for_zsh(script: &str) -> String {
    let lines = script
        .lines()
        .filter(|line| !line.starts_with("'::command -- "));
    let lines = lines.map(|line| {
        let line = if line.starts_with("'::name -- ") {
            line.replace(":_default'", ":_hotswap_names'")
        } else {
            line.replace("\":: :_hotswap_commands\"", "\":: :_hotswap_first\"")
        };
        line.replace("$line[2]", "$line[1]") + "\n"
    });
    let script: String = lines.collect();
    let (head, rest) = script.split_once("\n\n").unwrap_or(("", &script));
    format!(
        "{head}\n\n_hotswap_names() {{\n    local -a names=(${{(f)\"$({NAMES})\"}})\n    compadd -a names\n}}\n\n\
         _hotswap_first() {{\n    _hotswap_commands\n    _cmdambivalent\n}}\n\n{rest}"
    )
}

/// clap looks for a command in what it can read, and an option that is last has no value yet.
fn for_fish(script: &str) -> String {
    let reads = "    argparse -s (__fish_hotswap_global_optspecs) -- $cmd";
    let read = format!("{reads} 2>/dev/null\n");
    let with_a_value = format!("{read}    or {} . 2>/dev/null\n", reads.trim_start());
    let names = NAMES.replace('$', "\\$");
    let each = COMMANDS.map(|command| first_in_fish(command, &format!("({names})")));
    let shells = Shell::value_variants().iter().map(Shell::to_string);
    let shells = shells.collect::<Vec<_>>().join(" ");
    let shells = first_in_fish("completions", &shells);
    script.replace(&read, &with_a_value) + &each.concat() + &shells
}

fn first_in_fish(command: &str, words: &str) -> String {
    format!(
        "complete -c hotswap -n \"__fish_hotswap_using_subcommand {command}\" -f -a \"{words}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_may_be_a_command_in_zsh() {
        let script = script(Shell::Zsh);
        assert!(script.contains("\":: :_hotswap_first\""), "{script}");
        assert!(!script.contains("'::command -- "), "{script}");
        assert!(!script.contains("$line[2]"), "{script}");
        assert!(script.contains(":_hotswap_names'"), "{script}");
    }

    #[test]
    fn an_option_may_still_lack_its_value_in_fish() {
        let script = script(Shell::Fish);
        assert!(script.contains("or argparse -s"), "{script}");
        assert!(script.contains("-f -a \"bash elvish fish powershell zsh\""));
    }
}

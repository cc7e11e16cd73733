//! The manual pages in `packaging/man` are those of the command lines. `UPDATE_EXPECT=1` writes them anew.

use clap::Command;
use clap_mangen::Man;
use expect_test::expect_file;
use tamada::command_line;

#[test]
fn manual_pages_are_those_of_the_command_lines() {
    for command in command_line::commands() {
        let name = command.get_name().to_owned();
        let page = page(command.clone(), &name);
        match name.as_str() {
            "tamada" => expect_file!["../../packaging/man/tamada.1"].assert_eq(&page),
            "patroni" => expect_file!["../../packaging/man/patroni.1"].assert_eq(&page),
            "patronictl" => expect_file!["../../packaging/man/patronictl.1"].assert_eq(&page),
            "patroni_barman" => expect_file!["../../packaging/man/patroni_barman.1"].assert_eq(&page),
            "patroni_wale_restore" => {
                expect_file!["../../packaging/man/patroni_wale_restore.1"].assert_eq(&page);
            }
            "patroni_aws" => expect_file!["../../packaging/man/patroni_aws.1"].assert_eq(&page),
            other => panic!("{other} has no manual page"),
        }
        if let Some(ctl) = command.find_subcommand("ctl") {
            expect_file!["../../packaging/man/tamada-ctl.1"]
                .assert_eq(&self::page(ctl.clone(), "tamada ctl"));
        }
    }
}

/// One page for a command, with a section for each of its own commands.
fn page(command: Command, name: &str) -> String {
    let mut command = command
        .bin_name(name)
        .display_name(name.replace(' ', "-"))
        .disable_help_subcommand(true);
    command.build();
    let man = Man::new(command.clone())
        .date("")
        .source(format!("Tamada {}", env!("CARGO_PKG_VERSION")))
        .manual("Tamada");
    let mut page = Vec::new();
    man.render_title(&mut page).unwrap();
    man.render_name_section(&mut page).unwrap();
    man.render_synopsis_section(&mut page).unwrap();
    man.render_description_section(&mut page).unwrap();
    man.render_options_section(&mut page).unwrap();
    let mut page = String::from_utf8(page).unwrap();
    if command.get_subcommands().next().is_some() {
        page.push_str(".SH COMMANDS\n");
    }
    // `tamada ctl` has a page of its own.
    sections(&mut page, &command, name);
    page.push_str(".SH SEE ALSO\ntamada(1), tamada\\-ctl(1), /usr/share/doc/tamada\n");
    page
}

fn sections(page: &mut String, command: &Command, name: &str) {
    for sub in command.get_subcommands() {
        let full_name = format!("{name} {}", sub.get_name());
        if full_name == "tamada ctl" {
            page.push_str(".SS tamada ctl\nShow the cluster and steer it: see tamada\\-ctl(1).\n");
            continue;
        }
        if sub.get_subcommands().next().is_some() {
            sections(page, sub, &full_name);
            continue;
        }
        let man = Man::new(sub.clone().bin_name(&full_name));
        let mut text = Vec::new();
        man.render_synopsis_section(&mut text).unwrap();
        man.render_description_section(&mut text).unwrap();
        man.render_options_section(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let text = text
            .replace(".SH SYNOPSIS\n", "")
            .replace(".SH DESCRIPTION\n", ".PP\n")
            .replace(".SH OPTIONS\n", ".PP\n");
        // The conventions for apostrophes stand at the page's begin.
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "))
            .flat_map(|line| [line, "\n"])
            .collect();
        page.push_str(&format!(".SS {full_name}\n{text}"));
    }
}

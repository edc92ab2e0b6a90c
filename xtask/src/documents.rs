//! The files that are made from the table of options and the command line: the commented example, two manual pages, and what the
//! shells complete; and the copyright file, made from the crates.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use dot_proxy::cli;
use dot_proxy::config::file::DEFAULT_PATH;
use dot_proxy::config::options::{Applies, OPTIONS, Opt, SECTIONS};

use crate::{completions, copyright};

/// Path and content of every file that is made from the program's own tables.
pub fn all() -> Vec<(&'static str, String)> {
    let mut files = vec![
        ("packaging/dot-proxy.toml", example()),
        ("man/dot-proxy.toml.5", file_page()),
        ("man/dot-proxy.8", program_page()),
    ];
    files.extend(completions::all());
    files
}

/// The above, and the copyright file, for which the sources of the crates below `root`'s lock file are read.
fn all_below(root: &Path) -> Result<Vec<(&'static str, String)>, String> {
    let mut files = all();
    files.push(("packaging/copyright", copyright::file(root)?));
    Ok(files)
}

/// Writes them below `root`.
///
/// # Errors
/// The first that cannot be made or written.
pub fn write(root: &Path) -> Result<String, String> {
    let mut said = Vec::new();
    for (name, content) in all_below(root)? {
        let path = root.join(name);
        let parent = path.parent().unwrap_or(root);
        fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
        fs::write(&path, content).map_err(|error| format!("{name}: {error}"))?;
        said.push(format!("wrote {name}"));
    }
    Ok(said.join("\n"))
}

/// Compares them with those below `root`.
///
/// # Errors
/// Which are stale, and how to refresh them.
pub fn check(root: &Path) -> Result<String, String> {
    let stale = |(name, content): &(&str, String)| fs::read_to_string(root.join(name)).ok().as_ref() != Some(content);
    let files = all_below(root)?;
    let names: Vec<&str> = files.iter().filter(|file| stale(file)).map(|(name, _)| *name).collect();
    if names.is_empty() {
        Ok("generated files are up to date".to_owned())
    } else {
        Err(format!("stale: {}; run `cargo xtask docs` and commit the result", names.join(", ")))
    }
}

/// Lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let line = &mut lines[last];
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// A value that shows the form of an option that has no default which could be written.
fn sample(option: &Opt) -> &'static str {
    match option.key {
        "workers" => "2",
        "user" | "group" => "\"dot-proxy\"",
        "socket" => "\"/run/dot-proxy/control\"",
        "tls-certificate" => "\"/etc/dot-proxy/tls.crt\"",
        "tls-key" => "\"/etc/dot-proxy/tls.key\"",
        "tls-client-ca" => "\"/etc/dot-proxy/clients.crt\"",
        "ca-file" => "\"/etc/ssl/certs/ca-certificates.crt\"",
        "client-certificate" => "\"/etc/dot-proxy/client.crt\"",
        "client-key" => "\"/etc/dot-proxy/client.key\"",
        "bootstrap" => "[\"10.0.0.53\"]",
        "domains" => "[\"corp.example\", \"10.in-addr.arpa\"]",
        "servers" => "[\"10.0.0.53#ns.corp.example\"]",
        "post-quantum" => "true",
        _ => "",
    }
}

/// What is said of an option that a reload does not change.
fn when(option: &Opt) -> &'static str {
    match option.applies {
        Applies::Reload => "",
        Applies::Restart => "A change takes effect at a restart.",
    }
}

/// The default file: every option, commented out, with its default.
fn example() -> String {
    let mut out = format!(
        "# {DEFAULT_PATH}: configuration of dot-proxy, see dot-proxy.toml(5).\n\
         # Every line is commented out and shows the default; the empty file is the default service.\n\
         # `dot-proxy check` says whether a change is right, `systemctl reload dot-proxy` puts it in force.\n"
    );
    for section in SECTIONS {
        out.push('\n');
        for line in wrapped(section.about, 100) {
            let _ = writeln!(out, "# {line}");
        }
        if !section.name.is_empty() {
            // a table that may stand many times is not there by default
            let _ = writeln!(out, "{}{}", if section.repeated { "#" } else { "" }, section.header());
        }
        for option in OPTIONS.iter().filter(|option| option.section == section.name) {
            out.push('\n');
            for line in wrapped(&format!("{} {} {}", option.summary, option.text, when(option)), 100) {
                let _ = writeln!(out, "# {line}");
            }
            let value = if option.default.is_empty() { sample(option) } else { option.default };
            let _ = writeln!(out, "#{} = {value}", option.key);
        }
    }
    out
}

/// The page with no text line longer than 80 characters; requests stay as they are.
fn folded(page: &str) -> String {
    let mut out = String::new();
    for line in page.lines() {
        if line.starts_with('.') || line.len() <= 80 {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        for part in wrapped(line, 78) {
            // a line that begins with a dot would be taken for a request
            out.push_str(if part.starts_with(['.', '\'']) { "\\&" } else { "" });
            out.push_str(&part);
            out.push('\n');
        }
    }
    out
}

/// Text for roff: no character of it is taken for a request or an escape, and each sentence has a line.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let sentences = text.replace(". ", ".\n");
    sentences
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") })
        .collect()
}

/// The manual page of the configuration file.
fn file_page() -> String {
    let mut out = String::from(
        ".TH DOT\\-PROXY.TOML 5 2026-11-24 dot\\-proxy \"dot\\-proxy configuration\"\n.SH NAME\n\
         dot\\-proxy.toml \\- configuration of the DNS\\-over\\-TLS forwarder dot\\-proxy\n.SH SYNOPSIS\n",
    );
    let _ = writeln!(out, ".I {}", DEFAULT_PATH.replace('-', "\\-"));
    out.push_str(".SH DESCRIPTION\n");
    out.push_str(&roff(
        "A file in the TOML format. Every key is optional, and the empty or missing file is the default service. An \
         unknown key or a value that cannot be accepted is refused, with file, line, key and what would be accepted. \
         Run \"dot-proxy check\" after a change, and \"dot-proxy reload\" or \"systemctl reload dot-proxy\" to put it in force: \
         all of it, or, if anything is wrong, nothing. Where a change takes effect at a restart, the option says so; with \
         the socket unit a restart loses no query.",
    ));
    out.push_str(".PP\n");
    out.push_str(&roff(
        "Files are absolute paths, or \"credential:NAME\" for a credential that the unit hands over with LoadCredential=. The \
         service manager makes credentials once, at the start: a renewed one is read at a restart. The unit shows the \
         service only what is below /etc and /usr; for a file elsewhere add BindReadOnlyPaths= to it with systemctl edit.",
    ));
    for section in SECTIONS {
        let title = if section.name.is_empty() {
            "TOP OF THE FILE".to_owned()
        } else {
            format!("SECTION {}", section.header())
        };
        let _ = writeln!(out, ".SH \"{}\"", title.to_uppercase().replace('-', "\\-"));
        out.push_str(&roff(section.about));
        for option in OPTIONS.iter().filter(|option| option.section == section.name) {
            let _ = writeln!(out, ".TP\n.B {}", option.key.replace('-', "\\-"));
            out.push_str(&roff(option.summary));
            if !option.text.is_empty() {
                out.push_str(&roff(option.text));
            }
            out.push_str(&roff(&format!("Accepted: {}.", option.kind.accepted())));
            if !option.default.is_empty() {
                out.push_str(&roff(&format!("Default: {}", option.default)));
            }
            out.push_str(&roff(when(option)));
            if let Some(flag) = option.flag {
                out.push_str(&roff(&format!("On the command line: {flag}.")));
            }
        }
    }
    out.push_str(
        ".SH EXAMPLES\nOther resolvers, one of them with a pinned key:\n.PP\n.nf\n[upstream]\n\
         servers = [\n  \"9.9.9.9#dns.quad9.net\",\n  \"[2620:fe::fe]#dns.quad9.net\",\n  { address = \"192.0.2.1:853\", \
         name = \"dns.example\", pins = [\"base64...\"] },\n]\n.fi\n.PP\n\
         Names of a company's network from its own resolvers, over TLS, and those of its old site in plain DNS:\n.PP\n.nf\n\
         [[route]]\ndomains = [\"corp.example\", \"10.in\\-addr.arpa\"]\nservers = [\"10.0.0.53#ns.corp.example\"]\n\n\
         [[route]]\ndomains = [\"old.corp.example\"]\nservers = [\"plain:10.9.0.53\"]\n.fi\n.SH SEE ALSO\n.BR dot\\-proxy (8)\n",
    );
    folded(&out)
}

/// What the manual says of the command that asks one question.
const QUERY: &str = "\
\"dot-proxy query NAME [TYPE]\" asks through the code of the service, without the running one: the servers that the \
configuration has for the name, in their order, until one answers, each verified as the service would, within the same \
deadline. Servers given by name are looked up first, the privacy switches are obeyed, and what the service answers itself is not sent. With --server those are asked that are named there, whatever routes \
there are; with --ca-file the certificates in this file are trusted instead of those of the configuration. TYPE is a mnemonic such as AAAA, or TYPE28.

First comes the answer: response code, flags, the records, extended errors. Types that it does not know are written as RFC \
3597 has them. Then the server: TLS version, key exchange, cipher, ALPN, whether the session was resumed, the certificates, \
what was to be verified and what came of it, and the time of each stage. Of a server that failed a check it says which, what was \
presented, and what can be done; such a server was not sent the question. A server in plain DNS is shown as such.";

/// What the manual says of the command that changes the machine.
const SYSTEM_DNS: &str = "\
\"dot-proxy system-dns enable\" points the lookups of the machine at the service, \"disable\" puts back what was there \
before, byte for byte, and \"status\" says what is so. enable and disable need root. Installing the package changes nothing.

enable first asks the service a query over UDP and TCP, at those of its addresses that have port 53. If it does not \
answer, or answers with a failure, nothing is changed and the reason is said; with --force it goes on. Then it looks at what \
manages DNS here, and goes through that. systemd-resolved gets a drop-in that sends all names to the service, and \
NetworkManager, where it would tell systemd-resolved the servers of networks, another one that keeps it from doing so. \
Where NetworkManager writes resolv.conf, it gets a drop-in with global servers. Debian's resolvconf gets a hook, openresolv \
three lines in resolvconf.conf. In all other cases resolv.conf itself is replaced, with its search domains and options kept; \
DHCP clients are kept from writing it. A resolv.conf that is immutable or on a read-only file system is not touched.

Everything that is changed is recorded, with a copy, before it is changed: after an interruption at any point disable \
puts everything back. If lookups do not go to the service within ten seconds, enable takes everything back by itself. To \
enable twice does no harm, and mends what somebody has overwritten.

disable leaves alone what somebody has changed since, says so, and ends with status 1; with --force it puts back what was \
there before enable nevertheless. If nothing is enabled it says so and ends with status 0. It needs no configuration.

Names below domains that a link of systemd-resolved has for itself, as those of a VPN, still go to the servers of that \
link; enable and status name them. Where NetworkManager manages a VPN, its names go to the service as all others do, and \
are not found if the servers of the VPN alone know them.

enable and disable end with 0 if done and 1 if not. status ends with 0 if it is enabled and lookups go to the \
service, 1 if it is enabled and they do not, for instance since somebody has overwritten resolv.conf, and 3 if it is not enabled.";

/// The manual page of the program: made from its command line, with what a service's page must say besides.
fn program_page() -> String {
    let page = clap_mangen::Man::new(cli::command())
        .title("DOT-PROXY")
        .section("8")
        .date("2026-11-24")
        .manual("System administration");
    let mut out = Vec::new();
    // writing to memory cannot fail
    let _ = page.render_title(&mut out);
    let _ = page.render_name_section(&mut out);
    let _ = page.render_synopsis_section(&mut out);
    let _ = page.render_description_section(&mut out);
    let _ = page.render_options_section(&mut out);
    let mut text = String::from_utf8_lossy(&out).into_owned();
    text.push_str(".SH COMMANDS\n");
    for command in cli::command().get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = write!(text, ".TP\n.B {}\n{}", command.get_name().replace('-', "\\-"), roff(&about));
    }
    for (title, paragraphs) in [
        (
            "DETAILS",
            "Clients speak plain DNS over UDP and TCP, or DNS over TLS where a certificate is configured. Every query is relayed inside TLS to a resolver whose certificate or \
             key has been verified; nothing is sent in clear or to a resolver that is not authenticated, unless the \
             configuration asks for it by name for a group of resolvers (profile, and plain DNS in a route). If no \
             resolver answers within the deadline, the client gets SERVFAIL with an extended error that says why.",
        ),
        ("QUERY", QUERY),
        ("SYSTEM DNS", SYSTEM_DNS),
        (
            "SOCKETS",
            "Sockets that the service manager hands over (dot-proxy.socket) are served as they are: datagrams and streams, \
             IPv4 and IPv6, told apart by what they are and named in the log by FileDescriptorName=. A listening stream called tls \
             serves DNS over TLS (dot-proxy-tls.socket). One that cannot be \
             served is a reason not to start. They stay open over a restart, so that no query is lost, and the service \
             needs no capability. Without them the addresses of the configuration are bound; if a port is taken, the \
             message names the process and the unit that hold it. After a configuration that could not be used, mend it \
             and run \"systemctl restart dot-proxy.socket\".",
        ),
        (
            "PRIVILEGES",
            "Started as root, it binds its sockets, reads its files and becomes the user and group of the configuration \
             (dot-proxy, or nobody where there is no such user), with no capability, no way to new privileges and no \
             access for debuggers; that root cannot come back is tried before anything is served. It serves as root only \
             with user = \"root\". Then it confines itself, as far as the kernel can: with Landlock to reading its \
             configuration, its certificates and the trust store, to writing its state directory, and to TCP connections \
             to port 853 and the ports of its servers; with seccomp to the system calls that it needs, of which none starts a program or makes memory \
             executable. One line of the log says what holds. What was given up is not had again at a reload: a server on \
             another port, or a file in another folder, is refused then and needs a restart.",
        ),
        (
            "RELOAD",
            "\"dot-proxy reload\", \"systemctl reload dot-proxy\" and SIGHUP have the configuration read again, with its \
             certificates. If anything in it is wrong, nothing changes, and the log says what and where. Otherwise all of \
             it is in force for the next query; queries in flight are answered, clients keep their connections, and \
             connections to servers that stay are kept. A file that is only half written is read as it is at that moment: replace \
             it in one step, as editors do.",
        ),
        (
            "NETWORK CHANGES",
            "When an address, a link in use or a route to a resolver comes or goes, and when the machine comes out of \
             suspend, connections to resolvers begin anew: those from before take no more queries, and resolvers that \
             failed are tried again at once. One line of the log names the change; those that come together count as one. \
             An address whose lifetime is prolonged, as by DHCP, disturbs nothing. This needs netlink sockets, which the \
             unit allows; where they cannot be had, the log says so and only suspend is noticed.",
        ),
        (
            "CLOCK",
            "A machine may boot with a clock that is far in the past, when no certificate is valid yet, and need names to \
             set it. A clock before the date of the program is not believed: certificates are judged as of that date. A \
             certificate that is not valid yet even so is judged as of the last time at which a resolver's certificate was \
             good, if the service manager gives a state directory (STATE_DIRECTORY). The log says so once. All else about \
             a certificate is judged as ever, and with a clock that is right nothing of this takes effect.",
        ),
        (
            "MEMORY",
            "Answers are kept in memory for as long as their records allow, within the bound of cache.size. A query is \
             answered from there only if a resolver could not tell it from the one that the answer was given for; those \
             with a cookie, a client subnet or an unknown option, and signed ones, are always relayed. \"dot-proxy flush\" \
             forgets all answers, \"dot-proxy flush NAME\" those for a name, with --below those for all names below it as \
             well. A reload that changes who is asked forgets all by itself. With cache.persist answers outlive a restart, \
             in the state directory; the file is used only if it is whole and the same resolvers are asked.",
        ),
        (
            "SIGNALS",
            "SIGTERM and SIGINT end the service: no new queries are taken, and those in flight are answered first. SIGHUP \
             is a reload.",
        ),
        (
            "EXIT STATUS",
            "Of the service and of check: 0 after an orderly stop, 1 if the service could not start or go on, 2 for wrong \
             arguments, 78 for a configuration that cannot be used. Of status: 0 serving, 1 degraded (a worker takes no \
             turns, or no resolver is usable), 3 not running, 4 unknown, such as when the control socket may not be used. \
             Of reload: 0 in force, 1 refused, 3 and 4 as before. Of pins: 0 shown, 1 no TLS connection, 78 as before. Of query: 0 for NOERROR and NXDOMAIN, 1 for another answer or none, 78 as before. Those of \"system-dns\" stand in SYSTEM DNS.",
        ),
    ] {
        let paragraphs: Vec<String> = paragraphs.split("\n\n").map(roff).collect();
        let _ = write!(text, ".SH \"{title}\"\n{}", paragraphs.join(".PP\n"));
    }
    let _ = write!(
        text,
        ".SH FILES\n.TP\n.I {}\n{}",
        DEFAULT_PATH.replace('-', "\\-"),
        roff("The configuration, see dot-proxy.toml(5).")
    );
    let _ = write!(
        text,
        ".TP\n.I /run/dot\\-proxy/control\n{}",
        roff(
            "The socket of status and reload, for the user and the group of the service. Members of the group may use it."
        )
    );
    let _ = write!(
        text,
        ".TP\n.I {}\n{}",
        "/var/lib/dot-proxy/system-dns".replace('-', "\\-"),
        roff("What \"system-dns enable\" changed, with copies of what was there before; only while it is enabled.")
    );
    let _ = write!(
        text,
        ".TP\n.I {}\n{}",
        "/var/lib/dot-proxy-clock/last-good-time".replace('-', "\\-"),
        roff("See CLOCK. It may be removed.")
    );
    let _ = write!(
        text,
        ".TP\n.I {}\n{}",
        "/var/lib/dot-proxy-clock/cache".replace('-', "\\-"),
        roff("The answers that cache.persist keeps, for the service alone. It may be removed.")
    );
    text.push_str(".SH SEE ALSO\n.BR dot\\-proxy.toml (5)\n");
    folded(&text)
}

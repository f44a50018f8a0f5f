//! Takes out of a text what tells who and where its user is, and whatever looks like a secret.
//!
//! Each pass looks for a shape wherever it stands, and in doubt takes out more: what is not known to be the software's
//! own (an address of a private network, a name of Kubernetes) is not kept.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

/// The software's own names, and all names within them.
const OUR_DOMAINS: [&str; 6] = [
    "cluster.local",
    "k8s.io",
    "kubernetes.io",
    "minikube.internal",
    "minitunnel.Helper",
    "minitunnel.Helper1",
];
/// Files' names that are no hosts' names.
const OUR_FILES: [&str; 11] = [
    "ca.crt",
    "client.crt",
    "client.key",
    "config.json",
    "docker.sock",
    "events.json",
    "journal.json",
    "session.log",
    "session.log.old",
    "session.sock",
    "tunnels.json",
];
/// A name that ends so has a secret for its value.
const SECRETS: [&str; 7] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "bearer",
];
/// So long is a word with figures in it at most: a bootstrap token's secret has 16 characters.
const LONG_MIXED: usize = 16;
/// So long is any word at most, as base64 and base64url spell one: half a SHA-256 in hexadecimal.
const LONG: usize = 32;
/// The same with the slashes of base64, as paths have them too, where it has figures and both cases.
const LONG_WITH_SLASHES: usize = 40;
const REDACTED: &str = "<redacted>";

/// What is to be replaced, and by what.
pub(super) struct Redaction {
    /// The longest first, where one is within another.
    names: Vec<(String, &'static str)>,
}

impl Redaction {
    /// The home, name and host of whoever runs this.
    pub(super) fn of_this_user() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
        let mut users = vec![
            env::var("USER").unwrap_or_default(),
            env::var("LOGNAME").unwrap_or_default(),
        ];
        users.extend(
            home.file_name()
                .map(|name| name.to_string_lossy().into_owned()),
        );
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self::of(&home.to_string_lossy(), &users, &host)
    }

    fn of(home: &str, users: &[String], host: &str) -> Self {
        let mut names = vec![(host.to_owned(), "<host>")];
        // A home of `/` is everywhere.
        if home.len() > 1 {
            names.push((home.trim_end_matches('/').to_owned(), "~"));
        }
        names.extend(users.iter().map(|user| (user.clone(), "<user>")));
        // The host's own label, without its domain.
        let label = host.split('.').next().unwrap_or_default();
        names.push((label.to_owned(), "<host>"));
        names.retain(|(name, _)| !name.is_empty() && name != "root" && name != "localhost");
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Self { names }
    }

    /// The text without them.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = without_escapes(text);
        for (name, instead) in &self.names {
            text = replace_word(&text, name, instead);
        }
        text = without_secrets(&text);
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=_-".contains(c);
        text = each(&text, is_base64, push_run);
        text = each(&text, |c| c.is_ascii_digit() || c == '.', push_v4);
        let is_v6 = |c: char| c.is_ascii_alphanumeric() || c == ':' || c == '.';
        text = each(&text, is_v6, push_v6);
        let is_host = |c: char| c.is_alphanumeric() || "._-".contains(c);
        each(&text, is_host, push_host)
    }
}

/// The text with a space for each escaped character: the `n` of an escaped line break would become part of the word
/// after it, and hide that.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, found) = rest.split_at(at);
        out.push_str(before);
        // As often as it was escaped.
        let after = found.trim_start_matches('\\');
        rest = match after.chars().next() {
            Some('u') => {
                out.push(' ');
                let code = after[1..].trim_start_matches('{');
                let digits = code.len() - code.trim_start_matches(is_hex).len();
                // JSON has four digits, and what comes next may be one.
                let digits = if after.starts_with("u{") {
                    digits
                } else {
                    digits.min(4)
                };
                code[digits..].trim_start_matches('}')
            }
            Some('n' | 'r' | 't' | '0' | 'b' | 'f') => {
                out.push(' ');
                &after[1..]
            }
            _ => {
                out.push('\\');
                after
            }
        };
    }
    out + rest
}

fn is_hex(c: char) -> bool {
    c.is_ascii_hexdigit()
}

/// Replaces a name where it is a word of its own, in any case: `_` joins no words, as in `minitunnel_ann`.
fn replace_word(text: &str, name: &str, instead: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let found = rest
            .get(..name.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(name));
        let within = out.chars().next_back().is_some_and(char::is_alphanumeric)
            || rest
                .get(name.len()..)
                .is_some_and(|after| after.starts_with(char::is_alphanumeric));
        if found && !within {
            out.push_str(instead);
            rest = &rest[name.len()..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// The text without the values of names such as `password`, and without users and hosts of URLs.
fn without_secrets(text: &str) -> String {
    // After `password` comes a sign, and after that its value; quotes and blanks may be around each of them.
    let (mut named, mut signed) = (false, false);
    let is_inner = |c: char| !c.is_whitespace() && !"\"'`,;(){}".contains(c);
    each(text, is_inner, |out, word| {
        let is_sign = word.starts_with([':', '=']);
        if signed || (named && is_sign && word.len() > 1) {
            // `Authorization: Bearer` has its secret still before it.
            (named, signed) = (false, ends_with(word, "bearer"));
            out.push_str(REDACTED);
            return;
        }
        if named && is_sign {
            signed = true;
            out.push_str(word);
            return;
        }
        for (at, _) in word.match_indices([':', '=']) {
            let (name, value) = (&word[..at], &word[at + 1..]);
            // A key of Kubernetes' is no secret, but where it is given: `key=…`.
            let is_key = ends_with(name, "key") && !value.is_empty();
            if names_secret(name) || is_key {
                push_url(out, name);
                out.push_str(&word[at..=at]);
                if value.is_empty() {
                    signed = true;
                } else {
                    out.push_str(REDACTED);
                }
                return;
            }
        }
        named = names_secret(word);
        // `Bearer` has no sign.
        signed = ends_with(word, "bearer");
        push_url(out, word);
    })
}

fn names_secret(name: &str) -> bool {
    SECRETS.iter().any(|secret| ends_with(name, secret))
}

fn ends_with(name: &str, end: &str) -> bool {
    name.to_ascii_lowercase().ends_with(end)
}

/// Without what is before an `@`, and the host after `://`, which needs no dot.
fn push_url(out: &mut String, word: &str) {
    let (scheme, rest) = match word.split_once("://") {
        Some((scheme, rest)) if !scheme.contains('@') => (scheme, rest),
        _ if word.contains('@') => return out.push_str(REDACTED),
        _ => return out.push_str(word),
    };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // An IPv6 address is between brackets, and has colons of its own.
    let v6 = authority.find(']').map_or(0, |end| end + 1);
    let port = authority[v6..]
        .find(':')
        .map_or(authority.len(), |at| v6 + at);
    let (host, port) = authority.split_at(port);
    let is_ip = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    out.push_str(scheme);
    out.push_str("://");
    out.push_str(if is_ip || host.is_empty() || host == "localhost" {
        host
    } else {
        "<host name>"
    });
    out.push_str(port);
    push_url(out, path);
}

/// Keys, hashes, tokens and certificates by their length, but for paths.
fn push_run(out: &mut String, run: &str) {
    let has = |text: &str, test: fn(&char) -> bool| text.chars().any(|c| test(&c));
    let mixed = has(run, char::is_ascii_digit)
        && has(run, char::is_ascii_lowercase)
        && has(run, char::is_ascii_uppercase);
    let is_secret = |word: &str| {
        let mixed = has(word, char::is_ascii_digit) && has(word, char::is_ascii_alphabetic);
        word.len() >= LONG_MIXED && mixed
    };
    let is_run =
        |piece: &str| piece.len() >= LONG || piece.split(['+', '=', '_', '-']).any(is_secret);
    if run.len() >= LONG_WITH_SLASHES && mixed {
        return out.push_str(REDACTED);
    }
    for (index, piece) in run.split('/').enumerate() {
        if index > 0 {
            out.push('/');
        }
        out.push_str(if is_run(piece) { REDACTED } else { piece });
    }
}

fn push_v4(out: &mut String, run: &str) {
    let text = run.trim_matches('.');
    let public = match text.parse::<Ipv4Addr>() {
        Ok(ip) => !is_local(ip),
        // A version has four numbers at most; octets may have zeros before them.
        Err(_) => text.split('.').filter(|part| !part.is_empty()).count() >= 4,
    };
    out.push_str(&if public {
        run.replace(text, "<public IP>")
    } else {
        run.to_owned()
    });
}

fn push_v6(out: &mut String, run: &str) {
    // A word may be before the address, such as `addr:`, and after it a colon or a full stop.
    let starts = run.match_indices(':').map(|(at, _)| at + 1);
    for start in std::iter::once(0).chain(starts) {
        let (before, text) = run.split_at(start);
        for end in ["", ":", "."] {
            let Some(text) = text.strip_suffix(end) else {
                continue;
            };
            let instead = match text.parse::<IpAddr>() {
                Ok(IpAddr::V6(ip)) => of_v6(ip),
                _ if is_hardware(text) => Some("<hardware address>"),
                _ => continue,
            };
            out.push_str(before);
            out.push_str(instead.unwrap_or(text));
            out.push_str(end);
            return;
        }
    }
    out.push_str(run);
}

/// What an address is replaced by, if it is.
fn of_v6(ip: std::net::Ipv6Addr) -> Option<&'static str> {
    let first = ip.segments()[0];
    // fc00::/7, fe80::/10, ff00::/8.
    let local = first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 || first >= 0xff00;
    if !local && !ip.is_loopback() && !ip.is_unspecified() {
        return Some("<public IP>");
    }
    // EUI-64 (RFC 4291, appendix A): a network card's address with ff:fe in its middle.
    (ip.octets()[11..13] == [0xff, 0xfe]).then_some("<hardware address>")
}

/// A network card's address: six times two digits.
fn is_hardware(text: &str) -> bool {
    let mut parts = text.split(':');
    text.len() == 17 && parts.all(|part| part.len() == 2 && part.chars().all(is_hex))
}

fn push_host(out: &mut String, run: &str) {
    let name = run.trim_matches(['.', '-']);
    let (first, last) = name.rsplit_once('.').unwrap_or_default();
    // No top level's name begins with a digit (RFC 3696), as the last part of a version does.
    let is_host =
        !first.is_empty() && last.chars().count() >= 2 && last.starts_with(char::is_alphabetic);
    let is_within = |ours: &str| {
        let before = name.strip_suffix(ours);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let is_ours = OUR_FILES.contains(&name) || OUR_DOMAINS.iter().any(|ours| is_within(ours));
    out.push_str(&if is_host && !is_ours {
        run.replace(name, "<host name>")
    } else {
        run.to_owned()
    });
}

/// Whether the address tells nothing of where this machine is.
fn is_local(ip: Ipv4Addr) -> bool {
    // 100.64.0.0/10: carriers, and Tailscale.
    let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    // 0.0.0.0/1 and 128.0.0.0/1: a VPN's halves of the default route.
    let half = ip == Ipv4Addr::new(128, 0, 0, 0);
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_unspecified()
        || ip.is_multicast()
        || shared
        || half
}

/// Lets each longest run of such characters be written anew; what is between them stays as it is.
fn each(
    text: &str,
    is_inner: impl Fn(char) -> bool,
    mut push: impl FnMut(&mut String, &str),
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_inner(c)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        if !run.is_empty() {
            push(&mut out, run);
        }
        let next = after.find(&is_inner).unwrap_or(after.len());
        out.push_str(&after[..next]);
        rest = &after[next..];
    }
    out
}

#[cfg(test)]
mod tests;

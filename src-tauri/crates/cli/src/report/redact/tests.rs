use super::*;

fn redacted(text: &str) -> String {
    let users = ["ann".into(), String::new()];
    Redaction::of("/home/ann", &users, "annsbox.corp").redact(text)
}

fn become_these(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(redacted(text), *expected, "{text}");
    }
}

#[test]
fn homes_users_and_hosts_are_named_no_more() {
    become_these(&[
        ("/home/ann/.minikube of ann", "~/.minikube of <user>"),
        ("annsbox.corp, AnnsBox", "<host>, <host>"),
        ("ann's planning, annual", "<user>'s planning, annual"),
        (
            "/home/anna /srv/home/ann/x",
            "/home/anna /srv/home/<user>/x",
        ),
        ("minitunnel_ann", "minitunnel_<user>"),
        // Written by us, by a log's writer, or by JSON.
        ("x\nann", "x\n<user>"),
        ("x\\nann", "x <user>"),
        ("x\\\\nann\\t", "x <user> "),
        ("x\\u{1b}ann\\u000aann", "x <user> <user>"),
        ("of \\\"ann\\\"", "of \\\"<user>\\\""),
    ]);
}

#[test]
fn public_addresses_go_wherever_they_stand() {
    become_these(&[
        ("203.0.113.7", "<public IP>"),
        ("203.0.113.7-203.0.113.9", "<public IP>-<public IP>"),
        ("addr:203.0.113.8:443.", "addr:<public IP>:443."),
        ("ip203.0.113.8b 1.203.0.113.8", "ip<public IP>b <public IP>"),
        ("203.000.113.008/24", "<public IP>/24"),
        (
            "2001:db8::7, [2001:db8::7]:443",
            "<public IP>, [<public IP>]:443",
        ),
        ("peer:2001:db8::7:", "peer:<public IP>:"),
        ("2001:db8::1-2001:db8::5", "<public IP>-<public IP>"),
        ("::ffff:203.0.113.7", "<public IP>:<public IP>"),
        ("fe80::0242:acff:fe11:2", "<hardware address>"),
        ("fd00::42:acff:fe11:2/64", "<hardware address>/64"),
        ("02:42:ac:11:00:02", "<hardware address>"),
    ]);
}

#[test]
fn names_of_hosts_go_wherever_they_stand() {
    become_these(&[
        ("api.corp.example.com:6443/x", "<host name>:6443/x"),
        ("xn--80ak6aa92e.xn--p1ai", "<host name>"),
        ("bücher.example", "<host name>"),
        (
            "evilcorp-k8s.io acmecluster.local",
            "<host name> <host name>",
        ),
        ("api.acme.com.crt acme.key", "<host name> <host name>"),
        ("tcp://dockerbox:2376", "tcp://<host name>:2376"),
        (
            "https://u@a,https://b/c",
            "https://<host name>,https://<host name>/c",
        ),
    ]);
}

#[test]
fn what_looks_like_a_secret_goes() {
    let hash = "0123456789abcdef".repeat(4);
    let token = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ0123456789abcdef";
    let pem = "MIIEpAIBAAKCAQEA7x/8+Qk3v1JmZ0aB9cD2eF4gH6iJ8kL0mN2oP4qR6sT8uV0w==";
    for secret in [&hash, token, pem, "abcdefghijklmnopqrstuvwxyz-_abcdef"] {
        assert_eq!(redacted(&format!("({secret})")), "(<redacted>)");
    }
    become_these(&[
        ("abcdef.0123456789abcdef", "abcdef.<redacted>"),
        ("password=hunter2", "password=<redacted>"),
        ("DB_PASSWORD: hunter2 x", "DB_PASSWORD: <redacted> x"),
        (
            "\"api_token\": \"hunter2\"",
            "\"api_token\": \"<redacted>\"",
        ),
        (
            "--key=hunter2 secret:hunter2",
            "--key=<redacted> secret:<redacted>",
        ),
        (
            "Authorization: Bearer hunter2",
            "Authorization: <redacted> <redacted>",
        ),
        (
            "https://h/?token=hunter2",
            "https://<host name>/?token=<redacted>",
        ),
        ("tcp://bob:hunter2@dockerbox:2376", "tcp://<host name>:2376"),
        (
            "https://admin:hun/t@er2@192.168.49.2:1",
            "https://192.168.49.2:1",
        ),
        ("bob:hunter2@dockerbox", "<redacted>"),
    ]);
}

#[test]
fn what_a_bug_report_needs_stays() {
    for text in [
        "https://192.168.49.2:8443 https://[fd00::2]:8443 https://localhost:1",
        "10.96.0.0/12 via 192.168.49.2 dev br-1a2b3c4d5e6f metric 0",
        "fd00::1 fe80::1%eth0 ::1 ::/0 0.0.0.0/1 128.0.0.0/1 100.100.1.1 127.0.0.1:32771.",
        "web.default.svc.cluster.local control-plane.minikube.internal networking.k8s.io/v1",
        "v1.34.0 6.1.0-18-amd64 2026-11-23T17:40:41.123456Z  INFO minikube: connected",
        "~/.minikube/profiles/minikube/config.json unix:///run/docker.sock session.log.old",
        "minitunnel_engine::session::serve io.github.minitunnel.Helper1 /usr/libexec/minitunnel-helper",
        "{ \"key\": { \"namespace\": \"default\", \"name\": \"web\" }, \"since\": 1795456841123 }",
        "asked command=SetTarget { profile: ProfileName(\"minikube\"), target: Up }",
        "service default/web → 10.99.1.2 port 80 (12 ms)",
    ] {
        assert_eq!(redacted(text), text);
    }
}

import { describe, expect, test } from "vitest";

import { advice } from "../src/words/advice";
import { told } from "../src/words/change";
import { goes, stays } from "../src/words/cleanup";
import { choice, clashes } from "../src/words/conflict";
import { standing, webPort } from "../src/words/service";
import { said } from "../src/words/state";
import { clock, span, took } from "../src/words/time";
import { way } from "../src/words/way";
import { examples, profile } from "./page";

const { now, desk, trouble, cleanup } = examples();

describe("times", () => {
  test.each([
    [30_000, "less than a minute"],
    [60_000, "1 min"],
    [134 * 60_000, "2 h 14 min"],
    [120 * 60_000, "2 h"],
    [25 * 3_600_000, "1 day 1 h"],
    [48 * 3_600_000, "2 days"],
  ])("%i ms is %s", (time, text) => expect(span(time)).toBe(text));

  test.each([
    [{ secs: 0, nanos: 400_000 }, "<1 ms"],
    [{ secs: 0, nanos: 8_000_000 }, "8 ms"],
    [{ secs: 2, nanos: 340_000_000 }, "2.3 s"],
  ])("%o took %s", (time, text) => expect(took(time)).toBe(text));

  test("another day's time has its date", () => {
    expect(clock(now, now)).toMatch(/^\d\d:\d\d:\d\d$/);
    expect(clock(now - 48 * 3_600_000, now)).toMatch(/^28 Nov, /);
  });
});

test.each([
  [desk, "shop", "ok", "Connected, 4 services"],
  [desk, "payments", "bad", "Blocked by tun0"],
  [desk, "playground", "off", "Stopped"],
  [desk, "minikube", "warn", "Waiting for the cluster"],
  [trouble, "consent", "warn", "Needs your consent"],
  [trouble, "dialog", "warn", "Asking for your consent"],
  [trouble, "lock", "warn", "Waiting for minikube tunnel"],
  [trouble, "connecting", "warn", "Connecting…"],
  [trouble, "quitting", "warn", "Stopping…"],
  [trouble, "helperless", "bad", "Helper missing"],
  [trouble, "refused", "bad", "No consent"],
  [trouble, "fight", "bad", "Routes were removed"],
  [trouble, "laptop", "off", "No tunnel possible"],
  [trouble, "emulated", "off", "No tunnel possible"],
])("the list says of each state what it is", (snapshot, name, tone, short) => {
  expect(said(profile(snapshot, name))).toMatchObject({ tone, short });
});

test("since when a tunnel is up stands in its head", () => {
  expect(said(profile(desk, "shop"))).toMatchObject({ title: "Connected", since: now - 134 * 60_000 });
});

describe("the picture", () => {
  const tones = (snapshot: typeof desk, name: string) =>
    way(profile(snapshot, name), snapshot.helper).wires.map(({ tone }) => tone);

  test.each([
    [desk, "shop", ["ok", "ok", "ok"]],
    [desk, "payments", ["bad", "off", "off"]],
    [desk, "playground", ["off", "off", "off"]],
    [desk, "minikube", ["off", "bad", "off"]],
    [trouble, "helperless", ["bad", "off", "off"]],
    [trouble, "laptop", ["off", "bad", "off"]],
    [trouble, "consent", ["warn", "off", "off"]],
  ])("is broken where the way is", (snapshot, name, wires) => expect(tones(snapshot, name)).toEqual(wires));

  test("names what it leads through", () => {
    const { hops } = way(profile(desk, "shop"), desk.helper);
    expect(hops.map(({ name, about }) => `${name}: ${about}`)).toEqual([
      "This computer: helper ready",
      "2 routes: 10.96.0.0/12 and 1 more",
      "2 nodes: 192.168.49.2",
      "5 services: 4 reachable",
    ]);
  });
});

describe("conflicts", () => {
  test("are named by what is in the way", () => {
    const [clash] = clashes(profile(desk, "payments"));
    expect(clash).toMatchObject({ title: "Part of 10.112.0.0/12 already belongs to tun0", blocks: true });
    expect(clash?.effects).toEqual([
      "The narrower route 10.120.0.0/16 of OpenVPN (tun0) lies inside 10.112.0.0/12 via 192.168.58.2: those addresses would not lead to the cluster.",
    ]);
  });

  const remove = "sudo ip route del 10.0.0.0/8 via 192.168.1.1 dev eth0";
  const move = "minikube delete -p a && minikube start -p a --service-cluster-ip-range=10.144.0.0/12";

  test.each([
    ["Make the cluster anew", move, "Move the cluster", { kind: "copy", command: move }],
    ["Stop the other tunnel", "minitunnel down -p other", "Stop other", { kind: "stop", profile: "other" }],
    ["Remove what it left", "minitunnel cleanup", "Clean up", { kind: "clean_up" }],
    ["Remove it where it was set", remove, "Change the other side", { kind: "copy", command: remove }],
  ])("%s: %s", (advice, command, name, does) => expect(choice({ advice, command })).toMatchObject({ name, does }));

  test("what no command does is to be read", () => {
    const advice = "Take 10.100.0.0/16 out of the AllowedIPs of wg0, or bring wg0 down";
    expect(choice({ advice })).toMatchObject({ text: `${advice}.`, does: { kind: "read" } });
  });
});

describe("advice", () => {
  const of = (snapshot: typeof desk, name: string) => advice(profile(snapshot, name));

  test("a cluster that does not answer comes with the command that starts it", () => {
    expect(of(desk, "minikube")).toMatchObject([
      { title: "The cluster does not answer", command: "minikube start -p minikube" },
    ]);
    expect(of(trouble, "asleep")[0]).toMatchObject({ command: "minikube start -p asleep" });
  });

  test("consent is one click away, a missing helper one command", () => {
    expect(of(trouble, "consent")).toMatchObject([{ again: "Give consent" }]);
    expect(of(trouble, "helperless")).toMatchObject([{ command: "installers/linux/install", again: "Try again" }]);
  });

  test("a driver that no route leads to comes with the reason and another way", () => {
    const [laptop] = of(trouble, "laptop");
    expect(laptop).toMatchObject({ title: "No route leads to this cluster", command: "minikube tunnel -p laptop" });
    expect(laptop?.text).toContain("behind a local port");
    expect(of(trouble, "emulated")[0]?.command).toBe("minikube start -p emulated --driver=kvm2");
  });

  test("what a dead tunnel left can be cleaned up from where it is seen", () => {
    expect(of(trouble, "crashed")).toMatchObject([{ cleanUp: true }]);
    expect(of(trouble, "asleep")[1]?.text).toContain("default/web keeps 10.104.92.17");
  });

  test("nothing is said where nothing is to be done", () => {
    for (const name of ["shop", "playground"]) expect(of(desk, name)).toEqual([]);
  });
});

describe("services", () => {
  const service = (name: string) => {
    const found = profile(desk, "shop").load_balancers.find(({ key }) => key.name === name);
    if (!found) throw new Error(name);
    return found;
  };

  test("say how long the assignment took, or why there is none", () => {
    expect(standing(service("web"), false)).toEqual({ text: "in 8 ms", tone: null });
    expect(standing(service("legacy"), false)).toEqual({ text: "other class: example.com/lb", tone: "warn" });
    expect(standing(service("web"), true)).toEqual({ text: "left by a tunnel that died", tone: "warn" });
  });

  test("are opened at the likeliest port", () => {
    expect(webPort(service("api"))).toBe(443);
    expect(webPort(service("grafana"))).toBe(3000);
    const udp = { ...service("web"), ports: [{ port: 53, protocol: "UDP" }] };
    expect(webPort(udp)).toBeNull();
  });
});

test("every change of the example has words", () => {
  const lines = desk.activity.map(told);
  expect(lines).toContain("Tunnel connected");
  expect(lines).toContain("default/web got 10.104.92.17");
  expect(lines).toContain("Blocked by OpenVPN (tun0)");
  expect(lines).toContain("Route for services: 10.96.0.0/12");
});

test("a clean-up offers what is left, and tells what it leaves alone", () => {
  const rows = goes(cleanup);
  expect(rows.map(({ item }) => item?.item ?? "ours")).toEqual(["ours", "minikube_route", "minikube_address"]);
  expect(rows.map(({ consent }) => consent)).toEqual([false, true, false]);
  const kept = stays(desk, cleanup).map(({ what, address }) => `${what} ${address}`);
  expect(kept).toEqual(["Route 10.120.0.0/16 dev tun0", "Route 10.244.1.0/24 dev br-5f2c", "Addresses in minikube"]);
});

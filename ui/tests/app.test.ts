import { screen, waitFor, within } from "@testing-library/svelte";
import { expect, test } from "vitest";

import type { CleanupItem, LoadBalancer, Snapshot } from "../src/model";
import { Page, examples, joined, profile } from "./page";

const state = () => screen.getByRole("status", { name: "State of the tunnel" }).textContent;
const button = (name: string | RegExp) => screen.getByRole("button", { name });

test("without a session there is a button that starts one, and what it says where that fails", async () => {
  const page = new Page({ session: { session: "absent" }, snapshot: null, no_panel: false, minikube: true, version: "0.1.0" });
  expect(screen.getByRole("heading", { name: "minitunnel is not running" })).toBeTruthy();
  page.answers["start_session"] = () => {
    throw "neither minitunnel-tray nor minitunnel is beside this program";
  };
  await page.user.click(button("Start minitunnel"));
  expect(page.asked).toEqual([{ command: "start_session", arguments: {} }]);
  expect(screen.getByRole("alert").textContent).toContain("Neither minitunnel-tray nor minitunnel is beside");
  await page.isAccessible();

  page.show(joined(examples().desk));
  expect(screen.getByRole("heading", { level: 1 }).textContent).toBe("minikube");
  page.show({ session: { session: "absent" }, snapshot: null, no_panel: false, minikube: true, version: "0.1.0" });
  expect(button("Start minitunnel")).toBeTruthy();
});

test("a session that can't be used says why", async () => {
  const message = "the session that runs is minitunnel 9.9.9, and this is 0.1.0: end it (`kill 1`)";
  const page = new Page({ session: { session: "refused", message }, snapshot: null, no_panel: false, minikube: true, version: "" });
  expect(screen.getByRole("status", { name: "" }).textContent).toContain("minitunnel 9.9.9");
  await page.isAccessible();
});

test("without a profile, or without minikube, it says what to do", async () => {
  const { empty } = examples();
  const page = new Page(joined(empty));
  expect(screen.getByRole("heading", { name: "No minikube cluster yet" })).toBeTruthy();
  expect(screen.getByText("minikube start")).toBeTruthy();
  await page.isAccessible();
  page.show({ ...joined(empty), minikube: false });
  await page.user.click(button("Open minikube's guide"));
  expect(page.asked).toEqual([{ command: "open_guide", arguments: {} }]);
  await page.isAccessible();
});

test("where the desktop has no panel, it says so and is the place to quit", async () => {
  const { desk } = examples();
  const page = new Page(joined(desk));
  expect(screen.queryByRole("button", { name: "Quit minitunnel" })).toBeNull();
  page.show({ ...joined(desk), no_panel: true });
  expect(screen.getByRole("heading", { name: "This desktop has no place for the icon" })).toBeTruthy();
  await page.isAccessible();
  await page.user.click(button("Quit minitunnel"));
  expect(page.asked).toEqual([{ command: "command", arguments: { command: { command: "quit" } } }]);
  await page.user.click(button("Hide this"));
  expect(screen.queryByRole("heading", { name: "This desktop has no place for the icon" })).toBeNull();
});

test("a tunnel is started and stopped, and shown as it is", async () => {
  const { desk } = examples();
  const page = new Page(joined(desk));
  await page.user.click(button(/^playground/));
  expect(state()).toBe("Stopped");
  await page.user.click(button("Start"));
  const command = { command: "set_target", profile: "playground", target: "up" };
  expect(page.asked).toEqual([{ command: "command", arguments: { command } }]);
  // Never as it was asked for.
  expect(state()).toBe("Stopped");

  profile(desk, "playground").target = "up";
  profile(desk, "playground").tunnel = { state: "connected", since: Date.now() };
  page.show(joined(desk));
  expect(state()).toBe("Connected");
  expect(screen.getByText(/for less than a minute/)).toBeTruthy();
  await page.user.click(button("Stop"));
  expect(page.asked[1]?.arguments).toMatchObject({ command: { target: "down" } });
});

test("a tunnel that ends stays in view", async () => {
  const { desk } = examples();
  const page = new Page(joined(desk));
  const shown = () => screen.getByRole("heading", { level: 1 }).textContent;
  const first = shown();
  for (const status of desk.profiles) {
    status.target = status.profile.name === first ? "down" : "up";
  }
  page.show(joined(desk));
  expect(shown()).toBe(first);
});

test("a profile that can't be read and is waited for is one, as is an address that a service has twice", async () => {
  const { desk } = examples();
  desk.broken = [{ name: "odd", problem: "it is no JSON" }];
  desk.awaited = ["odd"];
  const service = profile(desk, "shop").load_balancers.find(({ ingress }) => ingress.length);
  service?.ingress.push(...service.ingress);
  const page = new Page(joined(desk));
  await page.user.click(button(/^shop/));
  expect(screen.getAllByRole("button", { name: /^odd/ })).toHaveLength(1);
});

test("quit ends the session", async () => {
  const page = new Page(joined(examples().desk));
  await page.user.click(button("Quit"));
  expect(page.asked).toEqual([{ command: "command", arguments: { command: { command: "quit" } } }]);
});

test("the arrow keys go through the profiles", async () => {
  const page = new Page(joined(examples().desk));
  button(/^minikube/).focus();
  await page.user.keyboard("{ArrowDown}{ArrowDown}");
  expect(document.activeElement).toBe(button(/^playground/));
  expect(screen.getByRole("heading", { level: 1 }).textContent).toBe("playground");
});

test("a service is copied and opened, and one without an address says why", async () => {
  const page = new Page(joined(examples().desk));
  await page.user.click(button(/^shop/));
  const row = (name: string) => {
    const found = screen.getAllByRole("row").find(({ textContent }) => textContent?.includes(name));
    if (!found) throw new Error(`no row ${name}`);
    return found;
  };
  expect(within(row("default/legacy")).queryAllByRole("button")).toEqual([]);
  expect(row("default/legacy").textContent).toContain("other class: example.com/lb");
  await page.user.click(button("Copy: 10.104.92.17 of default/web"));
  expect(await navigator.clipboard.readText()).toBe("10.104.92.17");
  expect(screen.getByRole("status", { name: "Notice" }).textContent).toBe("Copied: 10.104.92.17 of default/web");
  await page.user.click(button("Open 443 of default/api in the browser"));
  const service = { namespace: "default", name: "api" };
  expect(page.asked).toEqual([{ command: "open_service", arguments: { profile: "shop", service, port: 443 } }]);
  await page.isAccessible();
});

test("a conflict is explained, with the ways out", async () => {
  const { desk } = examples();
  const [conflict] = desk.profiles.flatMap(({ tunnel }) => (tunnel.state === "blocked" ? tunnel.conflicts : []));
  if (!conflict) throw new Error("no conflict");
  const group = profile(desk, "payments").groups[0];
  const ways_out = [{ advice: "Stop the other tunnel", command: "minitunnel down -p shop" }, ...conflict.ways_out];
  if (group?.state.state === "conflicting") group.state.conflicts = [{ ...conflict, ways_out }];
  const page = new Page(joined(desk));
  await page.user.click(button(/^payments/));
  expect(screen.getByRole("heading", { name: "Part of 10.112.0.0/12 already belongs to tun0" })).toBeTruthy();
  await page.user.click(button(/^Copy the commands/));
  expect(await navigator.clipboard.readText()).toContain("--service-cluster-ip-range=10.144.0.0/12");
  await page.user.click(button("Stop shop"));
  await page.user.click(button("Try again"));
  expect(page.asked.map((each) => each.arguments)).toEqual([
    { command: { command: "set_target", profile: "shop", target: "down" } },
    { command: { command: "set_target", profile: "payments", target: "up" } },
  ]);
  await page.isAccessible();
});

test.each(examples().trouble.profiles.map(({ profile }) => profile.name))("%s can be read by everybody", async (name) => {
  const page = new Page(joined(examples().trouble));
  await page.user.click(button(new RegExp(`^${name}`)));
  expect(screen.getByRole("heading", { level: 1 }).textContent).toBe(name);
  await page.isAccessible();
});

test("a profile that can't be read, and one that is gone, say so", async () => {
  const page = new Page(joined(examples().trouble));
  await page.user.click(button(/^broken/));
  expect(screen.getByText(/^config.json ends in the middle/)).toBeTruthy();
  await page.user.click(button(/^vanished/));
  await page.user.click(button("Don't wait for it"));
  expect(page.asked[0]?.arguments).toMatchObject({ command: { profile: "vanished", target: "down" } });
  await page.isAccessible();
});

test("a clean-up shows what goes and what stays, and removes what was chosen", async () => {
  const { desk, cleanup } = examples();
  const page = new Page(joined(desk));
  page.answers["clean_up"] = ({ dryRun, chosen }: { dryRun: boolean; chosen: CleanupItem[] }) =>
    dryRun ? cleanup : { dry_run: false, removed: [...cleanup.removed, ...chosen], failed: [], unasked: [], helper: null };
  await page.user.click(button(/^Clean up/));
  const boxes = await screen.findAllByRole<HTMLInputElement>("checkbox");
  expect(boxes.map(({ checked, disabled }) => [checked, disabled])).toEqual([
    [true, true],
    [true, false],
    [true, false],
  ]);
  expect(screen.getByRole("list", { name: "Will not be touched" }).textContent).toContain("10.120.0.0/16 dev tun0");
  await page.isAccessible();
  await page.user.click(boxes[1] as HTMLInputElement);
  await page.user.click(button("Remove 2"));
  expect(await screen.findByText(/^2 things removed/)).toBeTruthy();
  expect(page.asked.at(-1)?.arguments).toEqual({ dryRun: false, chosen: [cleanup.leftovers?.[1]] });
  await page.user.click(button("Close"));
  expect(screen.queryByRole("dialog")).toBeNull();
});

test("what can't be removed is said", async () => {
  const { desk, cleanup } = examples();
  const page = new Page(joined(desk));
  page.answers["clean_up"] = ({ dryRun }: { dryRun: boolean }) =>
    dryRun ? cleanup : { ...cleanup, removed: [], failed: [[cleanup.removed[0], "the kernel refused it"]] };
  await page.user.click(button(/^Clean up/));
  await page.user.click(await screen.findByRole("button", { name: "Remove 3" }));
  expect((await screen.findByRole("list", { name: "Could not be removed" })).textContent).toContain("The kernel refused it.");
});

test("settings are edited and saved as a whole", async () => {
  const { desk } = examples();
  desk.settings_problems = ["notifications is \"maybe\", and has to be true or false: true is used"];
  const page = new Page(joined(desk));
  await page.user.click(screen.getAllByRole("button", { name: "Settings…" })[0] as HTMLElement);
  const dialog = within(screen.getByRole("dialog"));
  expect(dialog.getByText(/^notifications is "maybe"/)).toBeTruthy();
  await page.user.click(dialog.getByRole("checkbox", { name: /^Start with the cluster/ }));
  await page.user.type(dialog.getByLabelText("minikube's folder"), "there");
  expect(button("Save")).toHaveProperty("disabled", true);
  await page.user.clear(dialog.getByLabelText("minikube's folder"));
  await page.user.type(dialog.getByLabelText("minikube's folder"), "/there/.minikube");
  await page.isAccessible();
  page.answers["command"] = () => {
    throw "the settings' file can't be written: is its folder yours?";
  };
  await page.user.click(button("Save"));
  expect(dialog.getByRole("alert").textContent).toContain("can't be written");
  delete page.answers["command"];
  await page.user.click(button("Save"));
  const settings = { ...desk.settings, start_with_cluster: true, minikube_home: "/there/.minikube" };
  expect(page.asked.at(-1)).toEqual({ command: "command", arguments: { command: { command: "configure", settings } } });
  await waitFor(() => expect(screen.queryByRole("dialog")).toBeNull());
});

/** The desk, with so many services in the first profile. */
function many(count: number): Snapshot {
  const { desk } = examples();
  const shop = profile(desk, "shop");
  const [one] = shop.load_balancers as [LoadBalancer];
  shop.load_balancers = Array.from({ length: count }, (_, at) => ({
    ...one,
    key: { namespace: "default", name: `service-${String(at).padStart(3, "0")}` },
  }));
  return desk;
}

test("500 services are counted and found, and only those in sight are drawn", async () => {
  const page = new Page(joined(many(500)));
  await page.user.click(button(/^shop/));
  const table = screen.getByRole("table");
  expect(table.getAttribute("aria-rowcount")).toBe("501");
  expect(within(table).getAllByRole("row").length).toBeLessThan(40);

  await page.user.type(screen.getByRole("searchbox"), "-499");
  expect(within(table).getAllByRole("row").length).toBe(2);
  expect(screen.getByRole("rowheader").textContent).toContain("service-499");
  await page.isAccessible();
});

test("30 profiles are listed, and those with long names in full", async () => {
  const { desk } = examples();
  const long = "a".repeat(63);
  const shop = profile(desk, "shop");
  const others = Array.from({ length: 26 }, (_, at) => ({ ...shop, profile: { ...shop.profile, name: `team-${at}` } }));
  const page = new Page(joined({ ...desk, profiles: [...desk.profiles, ...others] }));
  expect(within(screen.getByRole("navigation")).getAllByRole("button").length).toBe(30);
  page.show(joined({ ...desk, profiles: [{ ...shop, profile: { ...shop.profile, name: long } }] }));
  expect(screen.getByRole("heading", { level: 1 }).textContent).toBe(long);
  await page.isAccessible();
});

import type { CleanupItem, CleanupReport, Snapshot, TableEntry } from "../model";

/** A thing in the clean-up's preview. */
export interface Row {
  /** Before the address. */
  what: string;
  address: string;
  /** Behind the address. */
  rest: string;
  about: string;
  /** What a box chooses; `null` for what is ours and goes in any case. */
  item: CleanupItem | null;
  /** Whether a dialog asks about it. */
  consent: boolean;
}

/** What a clean-up would remove, ours first. */
export function goes(report: CleanupReport): Row[] {
  const ours = report.removed.map((item) => ({ ...row(item), item: null }));
  const unclaimed = (report.unclaimed ?? []).map((route): Row => ({
    ...row({ item: "route", ...route }),
    item: null,
  }));
  return [...ours, ...unclaimed, ...(report.leftovers ?? []).map(row)];
}

/** What is in sight, and is left alone. */
export function stays(snapshot: Snapshot, report: CleanupReport): Row[] {
  const foreign = new Map<string, Row>();
  const keep = (what: string, address: string, rest: string, about: string) =>
    foreign.set(`${what} ${address} ${rest}`, { what, address, rest, about, item: null, consent: false });
  const leftovers = (report.leftovers ?? []).map((each) => (each.item === "minikube_route" ? entry(each.entry) : ""));
  for (const status of snapshot.profiles) {
    for (const { state } of status.groups) {
      const conflicts = state.state === "conflicting" || state.state === "held" ? (state.conflicts ?? []) : [];
      for (const { other, owner } of conflicts) {
        if (other.origin.origin !== "ours" && !leftovers.includes(entry(other))) {
          keep("Route", entry(other), "", `of ${owner}`);
        }
      }
    }
    const name = status.profile.name;
    for (const { key, owner, ingress } of status.load_balancers) {
      if (owner.owner === "other" && owner.name !== "minikube" && ingress.length) {
        keep("Address", ingress.join(", "), `of ${key.namespace}/${key.name} in ${name}`, `set by ${owner.name}`);
      }
    }
    for (const { running, pid, route } of status.minikube_tunnels) {
      const about = `of the minikube tunnel of ${name} that runs (process ${pid})`;
      if (running) keep("Route", `${route.destination} via ${route.gateway}`, "", about);
    }
  }
  for (const profile of report.unasked) {
    keep("Addresses in", profile, "", "its cluster does not answer: some of ours may be left there until it does");
  }
  return [...foreign.values()];
}

export function row(item: CleanupItem): Row {
  switch (item.item) {
    case "route": {
      const address = `${item.destination} via ${item.gateway}`;
      return { what: "Route", address, rest: "", about: "of a minitunnel that died", item, consent: false };
    }
    case "address":
    case "minikube_address": {
      const { service, profile, addresses } = item;
      return {
        what: addresses.length > 1 ? "Addresses" : "Address",
        address: addresses.join(", "),
        rest: `of ${service.namespace}/${service.name} in ${profile}`,
        about: item.item === "address" ? "set by a minitunnel that died" : "set by minikube tunnel, which has ended",
        item,
        consent: false,
      };
    }
    case "minikube_route": {
      const about = `left by the minikube tunnel of ${item.profile} (process ${item.pid} has ended)`;
      return { what: "Route", address: entry(item.entry), rest: "", about, item, consent: true };
    }
  }
}

function entry({ destination, gateway, device }: TableEntry): string {
  return [destination, gateway && `via ${gateway}`, device && `dev ${device}`].filter(Boolean).join(" ");
}

import type { HelperStatus, ProfileStatus } from "../model";
import { counted, hasAddress, helper, unreachable, type Tone } from "./state";

/** A stop on the way from this computer to the services. */
export interface Hop {
  icon: "host" | "gate" | "node" | "services";
  name: string;
  about: string;
  /** Whether what it is about is an address. */
  address: boolean;
}

/** What leads from one stop to the next. */
export interface Wire {
  tone: Tone;
  /** For those who don't see the colours; also says where the way ends. */
  says: string;
}

export interface Way {
  hops: [Hop, Hop, Hop, Hop];
  wires: [Wire, Wire, Wire];
}

const OPEN: Wire = { tone: "ok", says: "leads to" };
const IDLE: Wire = { tone: "off", says: "would lead to" };
const BUSY: Wire = { tone: "warn", says: "is about to lead to" };
const BROKEN: Wire = { tone: "bad", says: "the way is broken here, before" };

/** The way from this computer to a profile's services, with the place where it ends. */
export function way(status: ProfileStatus, helperStatus: HelperStatus): Way {
  const { tunnel, groups, profile, load_balancers: services } = status;
  const local = profile.reach.reach === "local";
  const held = groups.filter((group) => group.state.state === "held").flatMap((group) => group.routes);
  const wanted = groups.find((group) => group.kind.kind === "services")?.routes[0]?.destination;
  const reachable = services.filter(hasAddress).length;

  const host: Hop = { icon: "host", name: "This computer", about: helper(helperStatus), address: false };
  if (local) host.about = "the cluster runs here";
  const gate: Hop = { icon: "gate", name: counted(held.length, "route"), about: "", address: false };
  gate.name = gate.name[0]?.toUpperCase() + gate.name.slice(1);
  const [first] = held;
  if (first) gate.about = held.length > 1 ? `${first.destination} and ${held.length - 1} more` : first.destination;
  else gate.about = wanted ?? "";
  if (local) Object.assign(gate, { name: "No route needed", about: "" });
  const ip = profile.nodes[0]?.ips[0];
  const nodes = profile.nodes.length;
  const node: Hop = {
    icon: "node",
    name: nodes > 1 ? `${nodes} nodes` : "Node",
    about: ip ?? "no address yet",
    address: ip !== undefined,
  };
  const last: Hop = {
    icon: "services",
    name: services.length ? counted(services.length, "service") : "Services",
    about: "out of reach",
    address: false,
  };

  const draw = (...wires: Way["wires"]): Way => ({ hops: [host, gate, node, last], wires });
  const gone = status.cluster.cluster === "stopped";
  const way = unreachable(profile.reach);
  if (way) {
    Object.assign(gate, { name: "No route", about: "none can lead there" });
    return draw(IDLE, BROKEN, IDLE);
  }
  switch (tunnel.state) {
    case "connected":
      last.about = services.length === 0 || reachable === services.length ? "reachable" : `${reachable} reachable`;
      return draw(OPEN, OPEN, OPEN);
    case "blocked":
      gate.name = "No route";
      gate.about = wanted ? `${wanted} is blocked` : "blocked";
      return draw(BROKEN, IDLE, IDLE);
    case "connecting":
    case "disconnecting":
      return draw(BUSY, BUSY, BUSY);
    case "waiting":
      if (tunnel.for === "cluster") {
        node.about = ip ? `${ip} is silent` : "has no address";
        node.address = false;
        return draw(IDLE, BROKEN, IDLE);
      }
      return draw(BUSY, IDLE, IDLE);
    case "failed":
      return draw(BROKEN, IDLE, IDLE);
    case "disconnected":
      if (gone) Object.assign(node, { about: ip ? `${ip} is silent` : "does not run", address: false });
      return draw(IDLE, IDLE, IDLE);
  }
}

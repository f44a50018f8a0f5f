import type { Conflict, ProfileStatus, RouteGroup, WayOut } from "../model";
import { kind } from "./change";

/** A group of routes that overlaps what is there, and why. */
export interface Clash {
  title: string;
  /** A sentence for each overlap, of those alike only the first. */
  effects: string[];
  /** How many more there are. */
  more: number;
  ways: Choice[];
  /** Whether it is about the services' routes. */
  services: boolean;
  /** Whether they can't be reached therefore. */
  blocks: boolean;
}

/** What a user can do about it. */
export interface Choice {
  name: string;
  text: string;
  /** What the button does. */
  does:
    | { kind: "copy"; command: string }
    | { kind: "stop"; profile: string }
    | { kind: "clean_up" }
    | { kind: "read" };
}

const SHOWN = 3;

/** Each group of a profile's routes that overlaps something, the services' first. */
export function clashes(status: ProfileStatus): Clash[] {
  return status.groups.flatMap((group) => {
    const conflicts = overlaps(group);
    return conflicts.length ? [clash(group, conflicts)] : [];
  });
}

function overlaps({ state }: RouteGroup): Conflict[] {
  return state.state === "conflicting" || state.state === "held" ? (state.conflicts ?? []) : [];
}

export function clash(group: RouteGroup, conflicts: Conflict[]): Clash {
  const effects = [...new Set(conflicts.map((conflict) => conflict.effect))];
  const ways = new Map(conflicts.flatMap(({ ways_out }) => ways_out.map((way) => [`${way.advice}: ${way.command}`, way])));
  return {
    title: title(conflicts[0] as Conflict, kind(group.kind)),
    effects: effects.slice(0, SHOWN).map(sentence),
    more: Math.max(0, effects.length - SHOWN),
    ways: [...ways.values()].map(choice),
    services: group.kind.kind === "services",
    blocks: group.kind.kind === "services" && group.state.state === "conflicting",
  };
}

/** What is in the way, in a few words. */
export function title({ kind, ours, owner, other, profile }: Conflict, group: string): string {
  const net = ours.destination;
  const who = other.device ?? owner;
  switch (kind) {
    case "same_destination":
      return `${net} already belongs to ${who}`;
    case "covers":
      return `Part of ${net} already belongs to ${who}`;
    case "covered_by":
      return `${net} lies inside a network of ${who}`;
    case "local_network":
      return `${net} overlaps this computer's own network`;
    case "policy":
      return `A routing rule wins over ${net}`;
    case "other_profile":
      return `${profile ?? "Another profile"} already has ${other.destination}`;
    case "live_traffic":
      return `This computer talks to somebody inside of ${net} (${group})`;
  }
}

export function choice({ advice, command }: WayOut): Choice {
  const text = sentence(advice);
  if (command === undefined) return { name: "Change the other side", text, does: { kind: "read" } };
  const stop = /^minitunnel down -p (\S+)$/.exec(command);
  if (stop?.[1]) return { name: `Stop ${stop[1]}`, text, does: { kind: "stop", profile: stop[1] } };
  if (command === "minitunnel cleanup") return { name: "Clean up", text, does: { kind: "clean_up" } };
  const does = { kind: "copy", command } as const;
  const range = /^minikube delete .*--service-cluster-ip-range=(\S+)/.exec(command)?.[1];
  if (range) {
    const all = `Make it again with the free range ${range}. Everything in it is lost.`;
    return { name: "Move the cluster", text: all, does };
  }
  return { name: "Change the other side", text, does };
}

/** With a capital, where it begins with a word and not with a name, and a full stop. */
export function sentence(text: string): string {
  const word = /^(?!minikube|minitunnel)[a-z]+(?=[ ,'])/.test(text);
  const capital = word ? text.charAt(0).toUpperCase() + text.slice(1) : text;
  return /[.!?]$/.test(capital) ? capital : `${capital}.`;
}

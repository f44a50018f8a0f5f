import type { Duration } from "../model";

/** How long it is, in the two largest units: `2 h 14 min`, `3 days 4 h`; below a minute `less than a minute`. */
export function span(milliseconds: number): string {
  const minutes = Math.floor(milliseconds / 60_000);
  if (minutes < 1) return "less than a minute";
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  const rest = hours % 24 ? ` ${hours % 24} h` : "";
  return `${days} ${days === 1 ? "day" : "days"}${rest}`;
}

/** How long an assignment took: whole milliseconds, seconds from one on. */
export function took(time: Duration): string {
  const milliseconds = time.secs * 1000 + Math.floor(time.nanos / 1_000_000);
  if (milliseconds < 1) return "<1 ms";
  if (milliseconds < 1000) return `${milliseconds} ms`;
  return `${(milliseconds / 1000).toFixed(1)} s`;
}

/** The time of day; with the date where it is another day's. */
export function clock(at: number, now: number): string {
  const date = new Date(at);
  const time = date.toLocaleTimeString("en-GB");
  if (date.toDateString() === new Date(now).toDateString()) return time;
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${time}`;
}

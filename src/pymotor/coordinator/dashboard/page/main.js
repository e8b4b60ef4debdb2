// @ts-check
/** Keeps the page up to date while somebody looks at it. */

import { buildCharts, showSeries } from "./charts.js";
import { byId, setText } from "./dom.js";
import { buildFigures, showFigures } from "./figures.js";
import { showFleet } from "./fleet.js";
import { setFlows } from "./flow.js";
import { followKey, sayError, sayFleet } from "./notice.js";
import { followRequests, requestShares, showRequests } from "./requests.js";
import { ask, Refused, Silent } from "./source.js";
import { followTheme } from "./theme.js";

const EVERY = 2000;
/** Workers and browsers do not look at the clock at the same moment. */
const OVERLAP = 5;

let heard = 0;
let newestPoint = 0;
let newestRequest = 0;
let running = false;
let again = 0;

async function renew() {
  const fleet = await ask("fleet");
  const [series, requests] = await Promise.all([
    ask(`series?after=${newestPoint}`),
    ask(`requests?after=${Math.max(0, newestRequest - OVERLAP)}`),
  ]);
  heard = fleet.time;
  newestPoint = series.points.at(-1)?.time ?? newestPoint;
  newestRequest = Math.max(newestRequest, requests.newest);
  await inTurn([
    () => {
      sayFleet(fleet);
      showFigures(fleet);
      setText(byId("workers"), `${fleet.workers_listening}/${fleet.workers} workers · ${fleet.models.join(", ") || "no model"}`);
    },
    () => showFleet(fleet),
    () => showRequests(requests.requests),
    () => setFlows(fleet, requestShares()),
    ...showSeries(series.points),
  ]);
}

/** One piece of work for each frame, so that none of them is late. @param {(() => void)[]} pieces */
async function inTurn(pieces) {
  for (const piece of pieces) {
    await new Promise((/** @type {(value?: unknown) => void} */ done) => {
      if (document.hidden) done();
      else requestAnimationFrame(done);
    });
    piece();
  }
}

async function turn() {
  if (running || document.hidden) return;
  running = true;
  clearTimeout(again);
  try {
    await renew();
  } catch (error) {
    if (!(error instanceof Refused || error instanceof Silent)) throw error;
    sayError(error, heard);
  } finally {
    running = false;
    again = setTimeout(turn, EVERY);
  }
}

followTheme(byId("theme"));
buildFigures();
buildCharts(byId("charts"));
followRequests();
followKey(turn);
document.addEventListener("visibilitychange", turn);
turn();

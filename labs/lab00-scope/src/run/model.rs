//! What `run` observed, in the order of cause and effect. The tracer makes it; the ladder, the SVG, the JSON and the
//! capture file show it. Nothing in here makes a call.

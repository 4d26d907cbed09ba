// The mini program's tools resolve a package's bare name to this file.
module.exports = require('./wxgate.js');

// Package wxgate builds the WeChat mini program login gateway into Caddy.
package wxgate

package wechat

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"

	"github.com/wxgate/wxgate/caddymodule/internal/strictjson"
)

// A check reports whether a value is what WeChat writes there.
type check func(value json.RawMessage) bool

// A shape is one kind of open data that WeChat documents. Open data is not authenticated:
// its sender can change blocks of 16 bytes at the price of one random block for each. So the
// members are fixed and their values as narrow as they can be, which leaves a random block
// no place to hide in, but for the free texts of a profile.
type shape struct {
	required   []string
	members    map[string]check
	consistent func(strictjson.Object) bool // nil if there is nothing to compare
}

// shapes are those of the wx functions in the comments.
var shapes = []shape{
	{ // button getPhoneNumber, getRealtimePhoneNumber
		required: []string{"phoneNumber", "purePhoneNumber", "countryCode"},
		members: map[string]check{
			"phoneNumber": matches(`\+?[0-9]{3,20}`), "purePhoneNumber": matches(`[0-9]{3,20}`),
			"countryCode": func(v json.RawMessage) bool { return isCountry(v) || isInteger(v) && len(v) <= 6 },
		},
		consistent: isOnePhone,
	},
	{ // getUserInfo, getUserProfile
		required: []string{"nickName"},
		members: map[string]check{
			"openId": isIdentifier, "unionId": isIdentifier, "nickName": isText, "gender": matchesNumber(`[0-2]`),
			"language": matches(`[A-Za-z_-]{0,16}`), "city": isText, "province": isText, "country": isText,
			"avatarUrl": matches(`(https?://[!-~]{1,1000})?`), "is_demote": isBool,
		},
	},
	{ // getShareInfo
		required: []string{"openGId"},
		members:  map[string]check{"openGId": isIdentifier},
	},
	{ // getGroupEnterInfo, getChatToolInfo
		members: map[string]check{
			"opengid": isIdentifierOrEmpty, "open_single_roomid": isIdentifierOrEmpty, "group_openid": isIdentifierOrEmpty, "chat_type": isInteger,
		},
		consistent: func(o strictjson.Object) bool { return o.Get("opengid") != nil || o.Get("open_single_roomid") != nil },
	},
	{ // getWeRunData
		required: []string{"stepInfoList"},
		members:  map[string]check{"stepInfoList": listOf("timestamp", isInteger, "step", isInteger)},
	},
	{ // authPrivateMessage
		required: []string{"activityId"},
		members:  map[string]check{"activityId": matches(`[!-~]{1,200}`)},
	},
	{ // getGameClubData
		required: []string{"dataList"},
		members:  map[string]check{"dataList": listOf("dataType", isDataType, "value", isInteger)},
	},
}

// hasShape reports whether an object, but for its watermark, has one of the shapes.
func hasShape(object strictjson.Object) bool {
	return slices.ContainsFunc(shapes, func(s shape) bool { return s.fits(object) })
}

func (s shape) fits(object strictjson.Object) bool {
	for _, member := range object {
		if member.Name == "watermark" {
			continue
		}
		if isValid := s.members[member.Name]; isValid == nil || !isValid(member.Value) {
			return false
		}
	}
	for _, name := range s.required {
		if object.Get(name) == nil {
			return false
		}
	}
	return s.consistent == nil || s.consistent(object)
}

// isOnePhone reports whether the three members of a phone number tell the same number:
// phoneNumber has the country code in front only if the number is a foreign one.
func isOnePhone(object strictjson.Object) bool {
	number, _ := strictjson.String(object.Get("phoneNumber"))
	pure, _ := strictjson.String(object.Get("purePhoneNumber"))
	country, isString := strictjson.String(object.Get("countryCode"))
	if !isString {
		country = string(object.Get("countryCode"))
	}
	number, country = strings.TrimPrefix(number, "+"), strings.TrimPrefix(country, "+")
	return number == pure || number == country+pure
}

// matches returns a check for strings that match the whole pattern.
func matches(pattern string) check {
	re := regexp.MustCompile(`^(?:` + pattern + `)$`)
	return func(value json.RawMessage) bool {
		s, ok := strictjson.String(value)
		return ok && re.MatchString(s)
	}
}

// matchesNumber returns a check for numbers whose text matches the whole pattern.
func matchesNumber(pattern string) check {
	re := regexp.MustCompile(`^(?:` + pattern + `)$`)
	return func(value json.RawMessage) bool { return re.Match(value) }
}

var (
	isCountry           = matches(`\+?[0-9]{1,5}`)
	isIdentifier        = matches(`[A-Za-z0-9_-]{1,128}`)
	isIdentifierOrEmpty = matches(`[A-Za-z0-9_-]{0,128}`)
	isText              = matches(`[^\x00-\x1f\x7f]{0,256}`)
	isInteger           = matchesNumber(`-?[0-9]{1,16}`)
	isBool              = matchesNumber(`true|false`)
)

// isDataType takes the number that WeChat documents, and the object that was asked with.
func isDataType(value json.RawMessage) bool {
	if isInteger(value) {
		return true
	}
	object, err := strictjson.Parse(value)
	asked := shape{required: []string{"type"}, members: map[string]check{"type": isInteger, "subKey": isIdentifierOrEmpty}}
	return err == nil && asked.fits(object)
}

// listOf returns a check for a list of objects with exactly these two members.
func listOf(name1 string, check1 check, name2 string, check2 check) check {
	each := shape{required: []string{name1, name2}, members: map[string]check{name1: check1, name2: check2}}
	return func(value json.RawMessage) bool {
		var list []json.RawMessage
		if value[0] != '[' || json.Unmarshal(value, &list) != nil {
			return false
		}
		return !slices.ContainsFunc(list, func(element json.RawMessage) bool {
			object, err := strictjson.Parse(element)
			return err != nil || !each.fits(object)
		})
	}
}

// Command sdktest is an application that uses an unmodified SDK, and holds no
// AppSecret: a key of wxgate_api takes its place. It is a module of its own, so
// that the SDK is no dependency of wxgate.
package main

import (
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/silenceper/wechat/v2"
	"github.com/silenceper/wechat/v2/cache"
	"github.com/silenceper/wechat/v2/miniprogram/config"
	"github.com/silenceper/wechat/v2/miniprogram/qrcode"
	"github.com/silenceper/wechat/v2/miniprogram/subscribe"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	relay, err := url.Parse(os.Getenv("WXGATE_API"))
	if err != nil {
		return err
	}
	sdk := wechat.NewWechat()
	// util.SetURIModifier would do for most calls, but v2.1.10 does not use it for QR codes and uploads.
	sdk.SetHTTPClient(&http.Client{Transport: toRelay{relay}})
	for _, stable := range []bool{false, true} {
		app := sdk.GetMiniProgram(&config.Config{
			AppID:       os.Getenv("APPID"),
			AppSecret:   os.Getenv("WXGATE_API_KEY"),
			Cache:       cache.NewMemory(),
			UseStableAK: stable,
		})
		err := app.GetSubscribe().Send(&subscribe.Message{
			ToUser: os.Getenv("OPENID"), TemplateID: "template-1",
			Data: map[string]*subscribe.DataItem{"thing1": {Value: "hello"}},
		})
		if err != nil {
			return err
		}
		image, err := app.GetQRCode().GetWXACodeUnlimit(qrcode.QRCoder{Scene: "a=1"})
		if err != nil {
			return err
		}
		fmt.Println("image", len(image))
	}
	return nil
}

// toRelay sends what is for api.weixin.qq.com to wxgate_api.
type toRelay struct{ relay *url.URL }

func (t toRelay) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host, req.Host = t.relay.Scheme, t.relay.Host, ""
	return http.DefaultTransport.RoundTrip(req)
}
